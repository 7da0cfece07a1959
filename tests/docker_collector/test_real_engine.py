"""The collector's process between a real engine and a real nats-server, and once to the receiver.

The oracle is `docker events`: every line it prints must become exactly one event of the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker import NatsServer, wait_until
from documents import assert_describes
from engine_actions import do_everything
from private_engine import EventsOracle, PrivateEngine, missing
from receiver import TOKEN, Receiver

from sematext_agent.docker_collector.masking import mask
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import DockerEvent, Event, Gap, decode, parse_rfc3339
from sematext_agent.shared.subjects import CURSORS_BUCKET, EVENTS_STREAM

pytestmark = [
    pytest.mark.skipif(bool(missing()), reason=missing()),
    # The SDK, with which these tests drive the engine, leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

FIXTURES = Path(__file__).parent / "fixtures"


class DockerCollectorProcess:
    """The collector's process, and its events in the stream."""

    def __init__(self, connection: Bus, server: NatsServer, address: str) -> None:
        self._bus = connection
        self._environment = os.environ | {
            "NATS_URL": server.url,
            "DOCKER_TRANSPORT": address,
            "HOSTNAME_ALIAS": "web-01",
            "CONTAINER_EVENTS_HEALTHCHECKS": "true",
        }
        self._process: subprocess.Popen[bytes] | None = None
        self.events: list[Event] = []
        self.subjects: list[str] = []

    def start(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "sematext_agent.docker_collector"], env=self._environment
        )

    def end(self, number: signal.Signals) -> int:
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait(20)

    def destroy(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end(signal.SIGKILL)

    async def has_begun(self) -> None:
        """Wait for the first cursor: from here on events are emitted."""
        async with asyncio.timeout(20):
            while not await self._bus.keys(CURSORS_BUCKET):
                await asyncio.sleep(0.02)

    async def listen(self) -> None:
        last_sequence = 0
        async for message in self._bus.create_puller(EVENTS_STREAM, "test", window=512):
            # A broker that was killed may deliver again; what counts is what the stream holds.
            if message.sequence > last_sequence:
                last_sequence = message.sequence
                self.events.append(decode(message.data))
                self.subjects.append(message.subject)
            await self._bus.acknowledge(message)

    def bodies(self) -> list[DockerEvent]:
        return [event.body for event in self.events if isinstance(event.body, DockerEvent)]

    def gaps(self) -> list[str]:
        return [event.body.reason for event in self.events if isinstance(event.body, Gap)]


@contextlib.asynccontextmanager
async def running_collector(
    connection: Bus, nats_server: NatsServer, engine: PrivateEngine
) -> AsyncIterator[DockerCollectorProcess]:
    """Run a collector whose events are read from the stream."""
    await connection.manager.add_stream(
        StreamConfig(name=EVENTS_STREAM, subjects=["events.>"], duplicate_window=900)
    )
    await connection.manager.add_consumer(EVENTS_STREAM, durable_name="test", ack_policy="explicit")
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    process = DockerCollectorProcess(connection, nats_server, engine.address)
    process.start()
    listening = asyncio.create_task(process.listen())
    try:
        await process.has_begun()
        yield process
    finally:
        listening.cancel()
        process.destroy()


@pytest.fixture
async def collector(
    connection: Bus, nats_server: NatsServer, engine: PrivateEngine
) -> AsyncIterator[DockerCollectorProcess]:
    """A collector of this test's own engine."""
    async with running_collector(connection, nats_server, engine) as process:
        yield process


@pytest.fixture
async def shared_collector(
    connection: Bus, nats_server: NatsServer, shared_engine: PrivateEngine
) -> AsyncIterator[DockerCollectorProcess]:
    """A collector of the engine that several tests share."""
    async with running_collector(connection, nats_server, shared_engine) as process:
        yield process


def key_of(line: dict[str, Any]) -> tuple[str, str, str, int]:
    action = line["Action"]
    return line["Type"], mask(action), line["Actor"]["ID"], line["timeNano"]


def keys_of(collector: DockerCollectorProcess) -> list[tuple[str, str, str, int]]:
    return [
        (event.body.type, event.body.action, event.body.actor_id, parse_rfc3339(event.time))
        for event in collector.events
        if isinstance(event.body, DockerEvent) and not event.body.synthetic
    ]


async def assert_complete(collector: DockerCollectorProcess, oracle: EventsOracle) -> None:
    """Wait until every event of the oracle is in the stream; assert that none is there twice."""
    await asyncio.sleep(0.2)
    expected = [key_of(line) for line in oracle.lines()]
    await wait_until(lambda: set(keys_of(collector)) >= set(expected), seconds=30)
    keys = keys_of(collector)
    assert len(keys) == len(set(keys))


@pytest.fixture
async def receiver(nats_server: NatsServer) -> AsyncIterator[Receiver]:
    """A receiver with a forwarder that delivers to it."""
    async with Receiver() as listening:
        environ = os.environ | {
            "NATS_URL": nats_server.url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": listening.url,
        }
        forwarder = subprocess.Popen(
            [sys.executable, "-m", "sematext_agent.forwarder"], env=environ
        )
        yield listening
        forwarder.terminate()
        assert await asyncio.to_thread(forwarder.wait, 20) == 0


async def test_every_recorded_action_is_produced_and_arrives_at_the_receiver(
    engine: PrivateEngine, collector: DockerCollectorProcess, receiver: Receiver
) -> None:
    with EventsOracle(engine) as oracle:
        await asyncio.to_thread(do_everything, engine)
        await assert_complete(collector, oracle)
    await wait_until(lambda: len(receiver.stored) >= len(collector.events), seconds=30)
    assert set(receiver.stored.values()) == {1}
    documents = {document["event.id"]: document for document in receiver.documents}
    for event in collector.events:
        assert_describes(documents[event.id], event)
    recorded = [json.loads(x) for x in (FIXTURES / "engine-20.10.jsonl").read_text().splitlines()]
    recorded_actions = {(line["Type"], line["Action"].partition(":")[0]) for line in recorded}
    produced = {(body.type, body.action.partition(":")[0]) for body in collector.bodies()}
    # These two need a second machine.
    assert recorded_actions - produced <= {("node", "create"), ("node", "remove")}
    bodies = {(b.type, b.action.partition(":")[0]): b for b in reversed(collector.bodies())}
    assert bodies["container", "kill"].attributes["signal"] == "1"
    assert bodies["container", "rename"].attributes["oldName"] == "/everything"
    assert bodies["image", "push"].actor_id.endswith("/box:1")
    assert collector.gaps() == []
    dies = [body for body in collector.bodies() if body.action == "die"]
    codes = {
        body.attributes.get("exitCode") for body in dies if body.labels.get("exitCode") == "spoofed"
    }
    # None where the container ran again or was removed before its inspection.
    assert "137" in codes
    assert codes <= {"137", None}
    untagged = next(body for body in collector.bodies() if body.action == "untag")
    assert untagged.image_tags[0].endswith("/box:1")
    for body, subject in zip(collector.bodies(), collector.subjects, strict=True):
        assert subject.startswith(f"events.docker.web-01.{body.type}.{body.action[:4]}"), subject


async def until_more_events(collector: DockerCollectorProcess) -> None:
    """Wait for 25 events more."""
    count = len(collector.events) + 25
    await wait_until(lambda: len(collector.events) > count)


class TagLoad(threading.Thread):
    """A load of events until it is stopped: tags, each followed by its untag.

    With the pause by default the engine remembers the events of 6 seconds, which is more than the
    restart of a collector takes.
    """

    def __init__(self, engine: PrivateEngine, pause_seconds: float = 0.05) -> None:
        super().__init__(daemon=True)
        self._pause_seconds = pause_seconds
        self._engine = engine
        self._over = threading.Event()

    def __enter__(self) -> TagLoad:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def run(self) -> None:
        image = self._engine.client.images.get("box:1")
        number = 0
        while not self._over.wait(self._pause_seconds):
            number += 1
            image.tag("load", str(number))
            self._engine.client.images.remove(f"load:{number}", noprune=True)

    def stop(self) -> None:
        self._over.set()
        self.join()


async def test_a_killed_collector_loses_and_repeats_no_event(
    shared_engine: PrivateEngine, shared_collector: DockerCollectorProcess
) -> None:
    with EventsOracle(shared_engine) as oracle:
        with TagLoad(shared_engine):
            for _ in range(3):
                await until_more_events(shared_collector)
                shared_collector.end(signal.SIGKILL)
                shared_collector.start()
            await until_more_events(shared_collector)
        await assert_complete(shared_collector, oracle)
    assert shared_collector.gaps() == []


async def test_a_stopped_collector_exits_with_0_and_the_next_resumes(
    shared_engine: PrivateEngine, shared_collector: DockerCollectorProcess
) -> None:
    image = shared_engine.client.images.get("box:1")
    with EventsOracle(shared_engine) as oracle:
        for number in range(50):
            image.tag("stop", str(number))
        assert shared_collector.end(signal.SIGTERM) == 0
        for number in range(50, 100):
            image.tag("stop", str(number))
        shared_collector.start()
        await assert_complete(shared_collector, oracle)
    assert shared_collector.gaps() == []


async def test_a_killed_broker_costs_no_event(
    shared_engine: PrivateEngine, shared_collector: DockerCollectorProcess, nats_server: NatsServer
) -> None:
    with EventsOracle(shared_engine) as oracle:
        with TagLoad(shared_engine, pause_seconds=0):
            await wait_until(lambda: len(shared_collector.events) > 40)
            nats_server.signal(signal.SIGKILL)
            produced = len(oracle.lines())
            # More than the engine remembers: only the collector's memory holds them.
            await wait_until(lambda: len(oracle.lines()) > produced + 400, seconds=30)
            nats_server.start()
        await assert_complete(shared_collector, oracle)
    assert shared_collector.gaps() == []


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_container_that_ends_while_the_engine_is_away_becomes_a_synthetic_event(
    engine: PrivateEngine, collector: DockerCollectorProcess, number: signal.Signals
) -> None:
    (engine.folder / "daemon.json").write_text('{"live-restore": true}')
    engine.reload()
    run = engine.client.containers.run
    short, long = (
        run(
            "box:1",
            ["sh", "-c", f"sleep {seconds}; exit 7"],
            detach=True,
            network_mode="none",
            name=f"sleeps-{seconds}",
            labels={"tier": "front"},
        )
        for seconds in (3, 1000)
    )
    await wait_until(lambda: sum(b.action == "start" for b in collector.bodies()) == 2)
    await wait_until(lambda: any(b.action == "reload" for b in collector.bodies()))
    await asyncio.to_thread(engine.stop, number)
    pid = container_process(engine, "sleep 3;")
    await wait_until(lambda: not Path(f"/proc/{pid}").exists(), seconds=20)
    await asyncio.to_thread(engine.start)
    await wait_until(lambda: any(b.synthetic for b in collector.bodies()), seconds=30)
    (died,) = [event for event in collector.events if getattr(event.body, "synthetic", False)]
    assert isinstance(died.body, DockerEvent)
    assert (died.body.action, died.body.actor_id) == ("die", short.id)
    assert died.body.attributes == {"exitCode": "7", "image": "box:1", "name": "sleeps-3"}
    assert died.body.labels == {"tier": "front"}
    assert collector.gaps() == ["engine_restarted"]
    # The one that lived on is followed as before.
    engine.client.containers.get(long.id).kill()
    await wait_until(
        lambda: any(b.action == "die" and b.actor_id == long.id for b in collector.bodies())
    )


def container_process(engine: PrivateEngine, command: str) -> str:
    """Return the process id of the shell that runs `command`."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            arguments = (entry / "cmdline").read_bytes().split(b"\0")
            if command.encode() in b" ".join(arguments) and arguments[0] == b"sh":
                return entry.name
    raise AssertionError(f"no process runs {command}")


async def test_an_engine_that_restarts_without_live_restore_has_no_synthetic_events(
    engine: PrivateEngine, collector: DockerCollectorProcess
) -> None:
    """Its stop has ended every container and reported each end."""
    engine.client.containers.run(
        "box:1", ["sleep", "1000"], detach=True, network_mode="none", stop_signal="SIGKILL"
    )
    await wait_until(lambda: any(b.action == "start" for b in collector.bodies()))
    await asyncio.to_thread(engine.stop)
    await wait_until(lambda: any(b.action == "stop" for b in collector.bodies()), seconds=20)
    await asyncio.to_thread(engine.start)
    engine.client.images.get("box:1").tag("after", "1")
    await wait_until(lambda: any(b.action == "tag" for b in collector.bodies()), seconds=20)
    await asyncio.sleep(1.5)
    assert not any(body.synthetic for body in collector.bodies())
    assert sum(body.action == "die" for body in collector.bodies()) == 1
