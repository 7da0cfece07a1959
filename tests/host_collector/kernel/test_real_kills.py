"""Real kills by this machine's kernel, and the events of the real collector on a real broker."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import json
import os
import re
import signal
import subprocess
import sys
import time
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import msgspec
import pytest
from broker import NatsServer, wait_until

from sematext_agent.host_collector.kernel import log_reader
from sematext_agent.host_collector.kernel.cursor import KernelLogCursor
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, OutOfMemory, decode
from sematext_agent.shared.subjects import CURSORS_BUCKET

V1, V2 = Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup")
HOG = """
import sys
name, cgroup = sys.argv[1:]
open("/proc/self/comm", "w").write(name)
open(cgroup, "w").write("0")
held = []
while True:
    held.append(b"x" * 2**20)
"""
SIZE_BUFFER = 10  # syslog(2)
RESTRICTED = Path("/proc/sys/kernel/dmesg_restrict")


def missing_requirement() -> str:
    """Return what this machine lacks for real kills; nothing where they can be made and seen."""
    if os.geteuid() != 0:
        return "only root can make a cgroup with a limit"
    if not (V1 / "memory.limit_in_bytes").exists() and not (V2 / "cgroup.controllers").exists():
        return "there is no memory cgroup here"
    try:
        os.close(log_reader.open_device(["/dev/kmsg"]))
    except OSError as error:
        return f"the kernel's log cannot be read here: {error}"
    return ""


pytestmark = pytest.mark.skipif(
    bool(missing_requirement()), reason=missing_requirement() or "possible"
)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """Yield a memory cgroup with a limit of 24 MiB."""
    root, limit = (V1, "memory.limit_in_bytes") if (V1 / "tasks").exists() else (V2, "memory.max")
    path = root / f"host-oom-test-{os.getpid()}"
    path.mkdir()
    (path / limit).write_text(str(24 * 2**20))
    yield path
    path.rmdir()


async def wait_for_dump_limit(kills: int) -> None:
    """Wait until the next kills come with their dumps, of which the kernel writes 10 in 5 s."""
    while True:
        log = log_reader.KernelLogReader(log_reader.open_device(["/dev/kmsg"]))
        with contextlib.closing(log):
            records = log.read()
            while not log.is_drained:
                records += log.read()
        since = time.time_ns() - 6 * NS_PER_SECOND
        dumps = [r for r in records if r.time > since and " invoked oom-killer: " in r.text]
        if len(dumps) + kills <= 10:
            return
        await asyncio.sleep(0.2)


async def hog(name: str, cgroup: Path) -> int:
    """Start a process of that name, which takes memory until it is killed; return its pid."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-S", "-c", HOG, name, cgroup / "cgroup.procs"
    )
    async with asyncio.timeout(20):
        assert await process.wait() == -signal.SIGKILL
    return process.pid


class LoggedCollector:
    """The collector as a process, and its log."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.log = ""
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.log += line.decode()

    async def end(self, number: signal.Signals) -> None:
        self.process.send_signal(number)
        async with asyncio.timeout(15):
            await self.process.wait()
            await self._reading

    async def page(self, path: str) -> str:
        """Return a page of its health server, which answers 200."""
        await wait_until(lambda: "port" in self.log)
        port = re.findall(r"port (\d+)", self.log)[0]
        request = f"http://127.0.0.1:{port}{path}"
        with await asyncio.to_thread(urllib.request.urlopen, request, timeout=5) as answer:
            return str(answer.read().decode())


class HostUnderTest:
    """This host, as the collector's user sees it: start it, end it, read its events."""

    def __init__(self, connection: Bus, url: str) -> None:
        self.connection = connection
        self.url = url
        self.events: list[Event] = []
        self.collector: LoggedCollector | None = None

    async def read_stream(self) -> None:
        """Read the events in the stream."""
        state = (await self.connection.manager.stream_info("EVENTS")).state
        while len(self.events) < state.last_seq:
            message = await self.connection.manager.get_msg("EVENTS", len(self.events) + 1)
            assert message.data is not None
            self.events.append(decode(message.data))

    @property
    def kills(self) -> list[OutOfMemory]:
        return [event.body for event in self.events if isinstance(event.body, OutOfMemory)]

    @property
    def gaps(self) -> list[Gap]:
        return [event.body for event in self.events if isinstance(event.body, Gap)]

    async def cursor(self) -> KernelLogCursor | None:
        stored = await self.connection.get(CURSORS_BUCKET, "host.web-01.oom")
        return msgspec.json.decode(stored, type=KernelLogCursor) if stored else None

    async def start(self, *wrapper: str) -> LoggedCollector:
        """Start the collector and wait until it reads the log, or else has found that it cannot."""
        process = await asyncio.create_subprocess_exec(
            *wrapper,
            sys.executable,
            "-m",
            "sematext_agent.host_collector",
            stderr=PIPE,
            cwd="/",
            env=os.environ
            | {
                "NATS_URL": self.url,
                "HOSTNAME_ALIAS": "web-01",
                "PKG_ENABLED": "false",
                "PKG_CONTAINER_ENABLED": "false",
            },
        )
        self.collector = LoggedCollector(process)
        async with asyncio.timeout(15):
            while (cursor := await self.cursor()) is None or not (cursor.sequence or wrapper):
                await asyncio.sleep(0.02)
        return self.collector

    async def wait_for_events(self, *, kills: int = 0, gaps: int = 0) -> None:
        async with asyncio.timeout(15):
            while len(self.kills) < kills or len(self.gaps) < gaps:
                await self.read_stream()
                await asyncio.sleep(0.02)


@pytest.fixture
async def host(connection: Bus, nats_server: NatsServer) -> AsyncIterator[HostUnderTest]:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    host = HostUnderTest(connection, nats_server.url)
    yield host
    if host.collector is not None and host.collector.process.returncode is None:
        await host.collector.end(signal.SIGKILL)


def write_record(text: str) -> None:
    """Write a record of the kernel's log as a program, which is what a forger can do."""
    with open("/dev/kmsg", "wb", buffering=0) as device:
        device.write(text.encode() + b"\n")


FORGED = (
    "<3>Memory cgroup out of memory: Killed process 1 (init) total-vm:1kB, anon-rss:1kB, "
    "file-rss:0kB, shmem-rss:0kB, UID:0 pgtables:1kB oom_score_adj:0"
)
NAMES = ["a) b, c", "tmux: server", "nl\nx", "é", ") total-vm:1kB,"]


async def test_processes_killed_at_once_are_one_event_each_whatever_their_names(
    host: HostUnderTest, cgroup: Path
) -> None:
    await wait_for_dump_limit(len(NAMES) + 1)
    await host.start()
    pids = await asyncio.gather(*(hog(name, cgroup) for name in NAMES))
    write_record(FORGED)
    pids.append(await hog("last", cgroup))
    await host.wait_for_events(kills=len(pids))
    kills = {(kill.process, kill.pid) for kill in host.kills}
    assert kills == set(zip([*NAMES, "last"], pids, strict=True))
    assert len(host.kills) == len(pids)
    assert host.gaps == []
    for kill in host.kills:
        assert kill.cgroup.endswith("/" + cgroup.name)
        assert kill.limit_cgroup == kill.cgroup
        assert (kill.uid, kill.constraint, kill.container_id) == (0, "memcg", "")
        assert 2**20 < kill.memory == kill.anonymous + kill.file + kill.shared < kill.virtual
    assert all(event.origin == "web-01" for event in host.events)


async def test_a_kill_in_a_container_names_the_container(
    host: HostUnderTest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its id, and by the name that the engine's record of it below HOST_ROOT has for it."""
    info = await asyncio.to_thread(subprocess.run, ["docker", "info"], capture_output=True)
    if info.returncode != 0:
        pytest.skip("there is no Docker Engine here")
    name = f"host-oom-test-{os.getpid()}"
    image = "python:3.11-slim-bookworm"
    code = "held = [b'x' * 2**20 for _ in range(200)]"
    command = ["docker", "create", "--name", name, "--memory", "16m", image, "python", "-c", code]
    try:
        identity = await asyncio.to_thread(subprocess.check_output, command, text=True)
        record = tmp_path / "var/lib/docker/containers" / identity.strip()
        record.mkdir(parents=True)
        (record / "config.v2.json").write_text(json.dumps({"Name": f"/{name}"}))
        monkeypatch.setenv("HOST_ROOT", str(tmp_path))
        await wait_for_dump_limit(1)
        await host.start()
        await asyncio.to_thread(subprocess.run, ["docker", "start", name], check=True)
        await host.wait_for_events(kills=1)
        (kill,) = host.kills
        assert kill.process == "python"
        assert (kill.container_id, kill.container_name) == (identity.strip(), name)
        assert kill.pod_uid == ""
    finally:
        await asyncio.to_thread(subprocess.run, ["docker", "rm", "-f", name], capture_output=True)


async def test_kills_while_the_collector_is_down_are_events_without_a_duplicate(
    host: HostUnderTest, cgroup: Path
) -> None:
    collector = await host.start()
    first = await hog("first", cgroup)
    await host.wait_for_events(kills=1)
    await collector.end(signal.SIGKILL)
    write_record(FORGED)
    second = await hog("second", cgroup)
    collector = await host.start()
    await host.wait_for_events(kills=2)
    await collector.end(signal.SIGTERM)
    assert collector.process.returncode == 0
    third = await hog("third", cgroup)
    await host.start()
    await host.wait_for_events(kills=3)
    assert [(kill.process, kill.pid) for kill in host.kills] == [
        ("first", first),
        ("second", second),
        ("third", third),
    ]
    assert host.gaps == []
    assert len({event.id for event in host.events}) == 3


async def test_a_kill_is_an_event_within_a_second(host: HostUnderTest, cgroup: Path) -> None:
    await host.start()
    loop = asyncio.get_running_loop()
    await hog("timed", cgroup)
    died = loop.time()
    await host.wait_for_events(kills=1)
    assert loop.time() - died < 1


async def test_a_flood_that_hides_a_kill_is_a_gap_with_its_number(
    host: HostUnderTest, cgroup: Path
) -> None:
    """The kernel's buffer is rolled over while the collector is frozen: an EPIPE, for real."""
    size = ctypes.CDLL(None).klogctl(SIZE_BUFFER, None, 0)
    if size > 2**18:
        pytest.skip(f"a buffer of {size} bytes takes too many records to roll over")
    collector = await host.start()
    collector.process.send_signal(signal.SIGSTOP)
    hidden = await hog("hidden", cgroup)
    for _ in range(size // 900 + 20):
        write_record("a flood of the host collector's tests " + "." * 900)
    collector.process.send_signal(signal.SIGCONT)
    await host.wait_for_events(gaps=1)
    (gap,) = host.gaps
    assert (gap.reason, gap.lost) == ("overrun", 1)
    shown = await hog("shown", cgroup)
    await host.wait_for_events(kills=1)
    assert hidden not in [kill.pid for kill in host.kills]
    assert [kill.pid for kill in host.kills] == [shown]


@pytest.mark.skipif(RESTRICTED.read_text() == "0\n", reason="here anybody may read the log")
async def test_without_access_the_remedy_is_logged_once_and_the_service_stays_ready(
    host: HostUnderTest,
) -> None:
    collector = await host.start("setpriv", "--bounding-set", "-syslog,-sys_admin")
    report = json.loads(await collector.page("/readyz"))
    assert report["ready"]
    assert "--device /dev/kmsg --cap-add SYSLOG" in report["conditions"]["kernel log"]["detail"]
    assert report["figures"]["kernel_log_readable"] == 0
    assert 'kernel_log_readable{service="host"} 0.0' in await collector.page("/metrics")
    await collector.end(signal.SIGTERM)
    assert collector.process.returncode == 0
    assert collector.log.count("--cap-add SYSLOG") == 1


async def test_disabled_it_does_not_read_the_log(
    host: HostUnderTest, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OOM_ENABLED", "false")
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(1):
            await host.start()
    assert host.collector is not None
    assert await host.cursor() is None
    report = json.loads(await host.collector.page("/readyz"))
    assert "kernel log" not in report["conditions"]
    await host.collector.end(signal.SIGTERM)
    assert host.collector.process.returncode == 0
