"""The collector's process between a real engine and a real nats-server.

The oracle is `docker events`: every line it prints must become exactly one event in the stream.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import signal
import socket
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import NatsServer, eventually
from private_engine import PrivateEngine, Registry, missing

from docker_collector.masking import mask
from shared.bus import Bus, StreamConfig
from shared.events import DockerEvent, Event, Gap, decode, nanoseconds
from shared.subjects import CURSORS, EVENTS_STREAM

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    # The SDK, with which these tests drive the engine, leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    folder = tmp_path_factory.mktemp("e")
    (folder / "daemon.json").write_text('{"live-restore": false}')
    private = PrivateEngine(folder)
    try:
        private.start()
        private.import_image()
        yield private
    finally:
        private.destroy()


class Collector:
    """The collector's process, and what it has put into the stream."""

    def __init__(self, connection: Bus, server: NatsServer, address: str) -> None:
        self._bus = connection
        self._environment = os.environ | {
            "NATS_URL": server.url, "DOCKER_TRANSPORT": address, "HOSTNAME_ALIAS": "web-01",
            "CONTAINER_EVENTS_HEALTHCHECKS": "true",
        }  # fmt: skip
        self._process: subprocess.Popen[bytes] | None = None
        self.told: list[Event] = []
        self.subjects: list[str] = []

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "docker_collector"], env=self._environment
        )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    def destroy(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)

    async def has_begun(self) -> None:
        """Waits for the first cursor: from here on events are told."""
        async with asyncio.timeout(20):
            while not await self._bus.keys(CURSORS):
                await asyncio.sleep(0.02)

    async def listen(self) -> None:
        taken = 0
        async for message in self._bus.pull(EVENTS_STREAM, "test", window=512):
            # A broker that was killed may deliver again; what counts is what the stream holds.
            if message.sequence > taken:
                taken = message.sequence
                self.told.append(decode(message.data))
                self.subjects.append(message.subject)
            await self._bus.acknowledge(message)

    def bodies(self) -> list[DockerEvent]:
        return [event.body for event in self.told if isinstance(event.body, DockerEvent)]

    def gaps(self) -> list[str]:
        return [event.body.reason for event in self.told if isinstance(event.body, Gap)]


@pytest.fixture
async def collector(
    connection: Bus, nats_server: NatsServer, engine: PrivateEngine
) -> AsyncIterator[Collector]:
    await connection.manager.add_stream(
        StreamConfig(name=EVENTS_STREAM, subjects=["events.>"], duplicate_window=900)
    )
    await connection.manager.add_consumer(EVENTS_STREAM, durable_name="test", ack_policy="explicit")
    await connection.manager.create_key_value(bucket=CURSORS)
    started = Collector(connection, nats_server, engine.address)
    started.start()
    listening = asyncio.create_task(started.listen())
    try:
        await started.has_begun()
        yield started
    finally:
        listening.cancel()
        started.destroy()


class Oracle:
    """What `docker events` says: the engine's own client."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._path = engine.folder / "oracle"
        command = ["docker", "-H", engine.address, "events", "--format", "{{json .}}"]
        with self._path.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        # It says nothing when it is ready, so it is made to print something.
        while not self.lines():
            engine.client.images.get("box:1").tag("oracle", "ready")
            time.sleep(0.02)

    def lines(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._path.read_bytes().split(b"\n")[:-1]]

    def end(self) -> None:
        self._process.kill()
        self._process.wait()


def key_of(line: dict[str, Any]) -> tuple[str, str, str, int]:
    action = line["Action"]
    return line["Type"], mask(action), line["Actor"]["ID"], line["timeNano"]


def keys_of(collector: Collector) -> list[tuple[str, str, str, int]]:
    return [
        (event.body.type, event.body.action, event.body.actor_id, nanoseconds(event.time))
        for event in collector.told
        if isinstance(event.body, DockerEvent) and not event.body.synthetic
    ]


async def all_told(collector: Collector, oracle: Oracle) -> None:
    """Waits until everything the oracle saw was told; nothing may be told twice."""
    await asyncio.sleep(0.2)
    expected = [key_of(line) for line in oracle.lines()]
    await eventually(lambda: set(keys_of(collector)) >= set(expected), seconds=30)
    told = keys_of(collector)
    assert len(told) == len(set(told))


async def test_every_recorded_action_is_produced_and_arrives(
    engine: PrivateEngine, collector: Collector
) -> None:
    oracle = Oracle(engine)
    try:
        await asyncio.to_thread(do_everything, engine)
        await all_told(collector, oracle)
    finally:
        oracle.end()
    recorded = [json.loads(x) for x in (FIXTURES / "engine-20.10.jsonl").read_text().splitlines()]
    wanted = {(line["Type"], line["Action"].partition(":")[0]) for line in recorded}
    told = {(body.type, body.action.partition(":")[0]) for body in collector.bodies()}
    # These two need a second machine.
    assert wanted - told <= {("node", "create"), ("node", "remove")}
    seen = {(b.type, b.action.partition(":")[0]): b for b in reversed(collector.bodies())}
    assert seen["container", "kill"].attributes["signal"] == "1"
    assert seen["container", "rename"].attributes["oldName"] == "/everything"
    assert seen["image", "push"].actor_id.endswith("/box:1")
    assert collector.gaps() == []
    dies = [body for body in collector.bodies() if body.action == "die"]
    spoofed = next(body for body in dies if body.labels.get("exitCode") == "spoofed")
    assert spoofed.attributes["exitCode"] == "137"
    untagged = next(body for body in collector.bodies() if body.action == "untag")
    assert untagged.image_tags[0].endswith("/box:1")
    for body, subject in zip(collector.bodies(), collector.subjects, strict=True):
        assert subject.startswith(f"events.docker.web-01.{body.type}.{body.action[:4]}"), subject


def do_everything(engine: PrivateEngine) -> None:
    """Every action that one machine's engine can be made to tell."""
    do_images(engine)
    do_a_container(engine)
    do_ends(engine)
    do_volumes_and_networks(engine)
    do_plugin(engine)
    do_swarm(engine)
    engine.reload()
    client = engine.client
    client.containers.create("box:1", "true")
    client.containers.prune()
    client.images.prune()
    client.api.prune_builds()
    deadline = time.monotonic() + 5
    while not any(b"reload" in line for line in past(engine)) and time.monotonic() < deadline:
        time.sleep(0.05)


def past(engine: PrivateEngine) -> list[bytes]:
    return list(engine.client.api.events(since=0, until=time.time()))


def do_images(engine: PrivateEngine) -> None:
    client = engine.client
    registry = Registry(engine)
    engine.import_image()
    name = f"{registry.address}/box"
    client.images.get("box:1").tag(name, "1")
    client.images.push(name, tag="1")
    client.images.remove(f"{name}:1")
    client.images.pull(name, tag="1")
    client.images.load(b"".join(client.images.get("box:1").save()))
    file = io.BytesIO(b'FROM box:1\nLABEL built=yes\nRUN ["/bin/true"]\n')
    client.images.build(fileobj=file, tag="built:1", rm=True, network_mode="none")
    client.images.remove("built:1")
    registry.close()


def do_a_container(engine: PrivateEngine) -> None:
    client, api = engine.client, engine.client.api
    labels = {"app": "web", "exitCode": "spoofed", "name": "spoofed"}
    container = client.containers.run(
        "box:1", ["sleep", "1000"], name="everything", labels=labels, network_mode="none",
        detach=True, tty=True, stdin_open=True,
    )  # fmt: skip
    container.kill("HUP")
    container.pause()
    container.unpause()
    container.exec_run(["echo", "hello: world", "--password", "S3cret"])
    container.top()
    tar, _ = container.get_archive("/bin/sh")
    file = b"".join(tar)
    container.put_archive("/tmp", file)
    api.post(f"{api.base_url}/v1.20/containers/{container.id}/copy", json={"Resource": "/bin"})
    for _ in container.export():
        pass
    container.commit("committed", "1")
    container.rename("renamed")
    container.update(mem_limit="64m", memswap_limit="128m")
    container.resize(40, 100)
    with client.api.attach_socket(container.id, {"stdin": 1, "stdout": 1, "stream": 1}) as wire:
        wire._sock.sendall(b"\x10\x11")  # ctrl-p ctrl-q
        wire._sock.settimeout(5)
        while wire._sock.recv(100):
            pass
    container.restart(timeout=1)
    container.kill()
    container.wait()
    container.start()
    container.stop(timeout=0)
    container.remove()


def do_ends(engine: PrivateEngine) -> None:
    client = engine.client
    run = client.containers.run
    greedy = run("box:1", ["tail", "/dev/zero"], mem_limit="16m", detach=True, network_mode="none")
    greedy.wait()
    greedy.remove()
    check = {"test": ["CMD-SHELL", "test -f /tmp/ok"], "interval": 10**9, "retries": 1}
    probed = run(
        "box:1", ["sh", "-c", "touch /tmp/ok; sleep 1000"], healthcheck=check, detach=True,
        network_mode="none",
    )  # fmt: skip
    deadline = time.monotonic() + 15
    while not any(b"health_status" in line for line in past(engine)):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    probed.remove(force=True)


def do_volumes_and_networks(engine: PrivateEngine) -> None:
    client = engine.client
    volume = client.volumes.create("v1")
    client.containers.run(
        "box:1", ["true"], volumes={"v1": {"bind": "/d", "mode": "ro"}}, remove=True,
        network_mode="none",
    )  # fmt: skip
    volume.remove()
    client.volumes.create("v2")
    client.volumes.prune()
    for name in ("n1", "n2"):
        client.networks.create(name)
    client.networks.get("n1").remove()
    client.networks.prune()


def do_plugin(engine: PrivateEngine) -> None:
    """A plugin whose process sleeps and whose socket is this test's."""
    api = engine.client.api
    config = {
        "description": "", "documentation": "", "entrypoint": ["/bin/sleep", "1000"], "env": [],
        "interface": {"types": [], "socket": "p.sock"}, "network": {"type": "none"}, "mounts": [],
        "linux": {"capabilities": []}, "args": {}, "workdir": "/", "propagatedmount": "",
    }  # fmt: skip
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w") as tar:
        text = json.dumps(config).encode()
        entry = tarfile.TarInfo("config.json")
        entry.size = len(text)
        tar.addfile(entry, io.BytesIO(text))
        for folder in ("rootfs", "rootfs/bin"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        tar.add("/bin/busybox", "rootfs/bin/sleep")
    registry = Registry(engine)
    name = f"{registry.address}/demo:1"
    root = f"{api.base_url}/v1.41/plugins"
    tar_type = {"Content-Type": "application/x-tar"}
    api.post(f"{root}/create", params={"name": name}, data=data.getvalue(), headers=tar_type)
    plugin = api.get(f"{root}/{name}/json").json()["Id"]
    serving = threading.Thread(target=serve_plugin, args=(plugin,), daemon=True)
    serving.start()
    enabled = api.post(f"{root}/{name}/enable", params={"timeout": 10})
    assert enabled.status_code == 200, enabled.text
    serving.join()
    assert api.post(f"{root}/{name}/disable", params={"force": 1}).status_code == 200
    assert "error" not in api.post(f"{root}/{name}/push").text
    api.delete(f"{root}/{name}", params={"force": 1})
    rights = api.get(f"{root}/privileges", params={"remote": name}).json()
    pulled = api.post(f"{root}/pull", params={"remote": name, "name": name}, json=rights)
    assert "error" not in pulled.text
    api.delete(f"{root}/{name}", params={"force": 1})
    registry.close()


def serve_plugin(plugin: str) -> None:
    """Listens where the engine looks for the plugin, once it has made the folder."""
    folder = Path("/run/docker/plugins", plugin)
    deadline = time.monotonic() + 10
    while not folder.exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(folder / "p.sock"))
        listener.listen()
        listener.settimeout(10)
        listener.accept()[0].close()


def do_swarm(engine: PrivateEngine) -> None:
    client, api = engine.client, engine.client.api
    client.swarm.init("127.0.0.1", listen_addr="127.0.0.1:23771", data_path_addr="127.0.0.1")
    service = client.services.create("box:1", name="s1", command=["sleep", "1000"])
    service.reload()
    service.update(mode={"Replicated": {"Replicas": 0}})
    service.remove()
    network = client.networks.create("overlay", driver="overlay")
    network.remove()
    for kind, create, remove in (
        ("secrets", api.create_secret, api.remove_secret),
        ("configs", api.create_config, api.remove_config),
    ):
        path = f"{api.base_url}/v1.41/{kind}/{create('c', b'x')['ID']}"
        found = api.get(path).json()
        changed = found["Spec"] | {"Labels": {"a": "b"}}
        version = {"version": found["Version"]["Index"]}
        assert api.post(f"{path}/update", params=version, json=changed).status_code == 200
        remove(found["ID"])
    client.swarm.leave(force=True)


class Load(threading.Thread):
    """Makes events until it is stopped: tags and untags, at most 50 a second each.

    A collector is back after about a second, and in that time the engine must not forget.
    """

    def __init__(self, engine: PrivateEngine) -> None:
        super().__init__(daemon=True)
        self._engine = engine
        self._over = threading.Event()

    def run(self) -> None:
        image = self._engine.client.images.get("box:1")
        number = 0
        while not self._over.wait(0.02):
            number += 1
            image.tag("load", str(number))
            self._engine.client.images.remove(f"load:{number}", noprune=True)

    def stop(self) -> None:
        self._over.set()
        self.join()


async def test_a_killed_collector_tells_everything_once(
    engine: PrivateEngine, collector: Collector
) -> None:
    oracle, load = Oracle(engine), Load(engine)
    load.start()
    for _ in range(3):
        told = len(collector.told)
        await eventually(lambda told=told: len(collector.told) > told + 40)
        collector.end(signal.SIGKILL)
        collector.start()
    told = len(collector.told)
    await eventually(lambda: len(collector.told) > told + 40)
    load.stop()
    await all_told(collector, oracle)
    oracle.end()
    assert collector.gaps() == []


async def test_a_stopped_collector_exits_with_0_and_the_next_goes_on(
    engine: PrivateEngine, collector: Collector
) -> None:
    oracle = Oracle(engine)
    image = engine.client.images.get("box:1")
    for number in range(50):
        image.tag("stop", str(number))
    assert collector.end(signal.SIGTERM) == 0
    for number in range(50, 100):
        image.tag("stop", str(number))
    collector.start()
    await all_told(collector, oracle)
    oracle.end()
    assert collector.gaps() == []


async def test_a_bus_that_is_killed_costs_nothing(
    engine: PrivateEngine, collector: Collector, nats_server: NatsServer
) -> None:
    oracle, load = Oracle(engine), Load(engine)
    load.start()
    await eventually(lambda: len(collector.told) > 40)
    nats_server.signal(signal.SIGKILL)
    produced = len(oracle.lines())
    # More than the engine remembers: only the collector's memory holds them.
    await eventually(lambda: len(oracle.lines()) > produced + 400, seconds=30)
    nats_server.start()
    load.stop()
    await all_told(collector, oracle)
    oracle.end()
    assert collector.gaps() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_container_that_ends_while_the_engine_is_away_is_told(
    engine: PrivateEngine, collector: Collector, number: signal.Signals
) -> None:
    (engine.folder / "daemon.json").write_text('{"live-restore": true}')
    engine.reload()
    run = engine.client.containers.run
    short, long = (
        run("box:1", ["sh", "-c", f"sleep {seconds}; exit 7"], detach=True, network_mode="none",
            name=f"sleeps-{seconds}", labels={"tier": "front"})
        for seconds in (3, 1000)
    )  # fmt: skip
    await eventually(lambda: sum(b.action == "start" for b in collector.bodies()) == 2)
    await eventually(lambda: any(b.action == "reload" for b in collector.bodies()))
    await asyncio.to_thread(engine.stop, number)
    pid = container_process(engine, "sleep 3;")
    await eventually(lambda: not Path(f"/proc/{pid}").exists(), seconds=20)
    await asyncio.to_thread(engine.start)
    await eventually(lambda: any(b.synthetic for b in collector.bodies()), seconds=30)
    (died,) = [event for event in collector.told if getattr(event.body, "synthetic", False)]
    assert isinstance(died.body, DockerEvent)
    assert (died.body.action, died.body.actor_id) == ("die", short.id)
    assert died.body.attributes == {"exitCode": "7", "image": "box:1", "name": "sleeps-3"}
    assert died.body.labels == {"tier": "front"}
    assert collector.gaps() == ["engine_restarted"]
    # The one that lived on is followed as before.
    engine.client.containers.get(long.id).kill()
    await eventually(
        lambda: any(b.action == "die" and b.actor_id == long.id for b in collector.bodies())
    )


def container_process(engine: PrivateEngine, command: str) -> str:
    """The process id of the shell that runs `command`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if command.encode() in b" ".join(arguments) and arguments[0] == b"sh":
                return entry.name
    raise AssertionError(f"no process runs {command}")


async def test_an_engine_that_is_not_there_yet_is_waited_for(
    engine: PrivateEngine, collector: Collector
) -> None:
    """Restarted without live-restore: what ended at its stop was told, nothing is invented."""
    engine.client.containers.run(
        "box:1", ["sleep", "1000"], detach=True, network_mode="none", stop_signal="SIGKILL"
    )
    await eventually(lambda: any(b.action == "start" for b in collector.bodies()))
    await asyncio.to_thread(engine.stop)
    await eventually(lambda: any(b.action == "stop" for b in collector.bodies()), seconds=20)
    await asyncio.to_thread(engine.start)
    engine.client.images.get("box:1").tag("after", "1")
    await eventually(lambda: any(b.action == "tag" for b in collector.bodies()), seconds=20)
    await asyncio.sleep(1.5)
    assert not any(body.synthetic for body in collector.bodies())
    assert sum(body.action == "die" for body in collector.bodies()) == 1
