"""The real process, killed at the worst moments: every change is one event in the stream."""

from __future__ import annotations

import asyncio
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import NatsServer, wait_until
from nats.js.api import KeyValueConfig, StreamConfig, StreamState
from package_managers import Dpkg
from package_run import summarize

from sematext_agent.shared import events
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.subjects import CURSORS_BUCKET, EVENTS_STREAM, EVENTS_SUBJECTS


class CollectorProcess:
    """The host collector as a process of its own."""

    def __init__(self, root: Path, nats_url: str, log: Path) -> None:
        self._environment = os.environ | {
            "NATS_URL": nats_url,
            "HOST_ROOT": str(root),
            "HOSTNAME_ALIAS": "web-01",
            "OOM_ENABLED": "false",
            "PKG_CONTAINER_ENABLED": "false",
        }
        self._log = log
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sematext_agent.host_collector"],
                env=self._environment,
                stderr=log,
            )

    def end(self, number: signal.Signals = signal.SIGKILL) -> int:
        """End it, and return its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end()


class Stream:
    """The events in the stream."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.summaries: list[str] = []

    async def until(self, count: int, seconds: float = 20) -> list[str]:
        """Wait until the stream holds `count` events or more."""
        async with asyncio.timeout(seconds):
            while (await self._state()).messages < count:
                await asyncio.sleep(0.005)
        return await self.all()

    async def _state(self) -> StreamState:
        state: StreamState = (await self._bus.manager.stream_info(EVENTS_STREAM)).state
        return state

    async def all(self) -> list[str]:
        """Return all events in one line each."""
        for seq in range(len(self.summaries) + 1, (await self._state()).last_seq + 1):
            message = await self._bus.manager.get_msg(EVENTS_STREAM, seq)
            self.summaries.append(summarize(events.decode(message.data)))
        return self.summaries

    async def all_after_stop(self, collector: CollectorProcess) -> list[str]:
        """Return all events after an orderly stop, which publishes the pending ones."""
        assert await asyncio.to_thread(collector.end, signal.SIGTERM) == 0
        return await self.all()

    async def accept_cursors(self, accepted: bool) -> None:
        """Make the bucket accept cursors, or refuse them."""
        config = (await self._bus.manager.stream_info(f"KV_{CURSORS_BUCKET}")).config
        config.max_msg_size = -1 if accepted else 1
        await self._bus.manager.update_stream(config)

    async def until_baseline(self) -> None:
        """Wait until the inventory of the database of dpkg is stored."""
        async with asyncio.timeout(20):
            while not await self._bus.get(CURSORS_BUCKET, "host.web-01.packages-0"):
                await asyncio.sleep(0.02)


@pytest.fixture
async def stream(connection: Bus) -> Stream:
    window = 15 * 60
    config = StreamConfig(EVENTS_STREAM, subjects=[EVENTS_SUBJECTS], duplicate_window=window)
    await connection.manager.add_stream(config)
    await connection.manager.create_key_value(KeyValueConfig(CURSORS_BUCKET))
    return Stream(connection)


@pytest.fixture
def dpkg(tmp_path: Path) -> Dpkg:
    root = tmp_path / "host"
    root.mkdir()
    return Dpkg(root)


@pytest.fixture
def collector(dpkg: Dpkg, nats_server: NatsServer, tmp_path: Path) -> Iterator[CollectorProcess]:
    process = CollectorProcess(dpkg.root, nats_server.url, tmp_path / "collector.log")
    yield process
    process.stop()


async def test_changes_while_it_was_down_are_emitted(
    dpkg: Dpkg, collector: CollectorProcess, stream: Stream
) -> None:
    """Killed before the change, killed again right after its events, stopped in an orderly way."""
    dpkg("-i", dpkg.build("alpha", "1.0"))
    collector.start()
    await stream.until_baseline()
    collector.end()
    dpkg("-i", dpkg.build("alpha", "1.1"), dpkg.build("beta", "1.0"))
    collector.start()
    expected = [
        "removed deb alpha 1.0 -> 1.1",
        "installed deb alpha 1.1 <- 1.0",
        "installed deb beta 1.0",
    ]
    assert await stream.until(3) == expected
    collector.end()
    collector.start()
    await asyncio.to_thread(dpkg, "-i", dpkg.build("gamma", "1.0"))
    assert await stream.until(4) == [*expected, "installed deb gamma 1.0"]
    assert collector.end(signal.SIGTERM) == 0
    collector.start()
    await asyncio.to_thread(dpkg, "-i", dpkg.build("delta", "1.0"))
    assert (await stream.until(5))[4:] == ["installed deb delta 1.0"]
    assert len(await stream.all_after_stop(collector)) == 5


@pytest.mark.parametrize("killed_at", [1, 40, 299, 300])
async def test_killed_while_it_publishes_three_hundred(
    dpkg: Dpkg, collector: CollectorProcess, stream: Stream, killed_at: int
) -> None:
    """After so many are in the stream, and before the cursor: the rest comes, and no duplicate."""
    collector.start()
    await stream.until_baseline()
    _install_many(dpkg, 300)
    await stream.until(killed_at)
    collector.end()
    # While it is down the database goes on: published events keep their ids all the same.
    await asyncio.to_thread(dpkg, "-i", dpkg.build("later", "1.0"))
    collector.start()
    summaries = await stream.until(301)
    assert len(summaries) == len(set(summaries)) == 301
    assert len(await stream.all_after_stop(collector)) == 301


async def test_killed_between_the_last_event_and_the_cursor(
    dpkg: Dpkg, collector: CollectorProcess, stream: Stream
) -> None:
    """The worst moment, held open: the bucket refuses cursors until the process is dead.

    Everything is emitted again then, with the same ids, although the database has changed again.
    """
    dpkg("-i", dpkg.build("goes", "1.0"), dpkg.build("old", "1.0"))
    collector.start()
    await stream.until_baseline()
    await stream.accept_cursors(False)
    await asyncio.to_thread(dpkg, "-P", "goes")
    await asyncio.to_thread(dpkg, "-i", dpkg.build("old", "2.0"), dpkg.build("alpha", "1.0"))
    await stream.until(4)
    collector.end()
    await stream.accept_cursors(True)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("later", "1.0"))
    collector.start()
    assert (await stream.until(5))[4:] == ["installed deb later 1.0"]
    assert len(await stream.all_after_stop(collector)) == 5


async def test_killed_again_and_again_while_packages_come(
    dpkg: Dpkg, collector: CollectorProcess, stream: Stream
) -> None:
    """Twelve installations by a real dpkg, and kills at random between and within them."""
    packages = [dpkg.build(f"p{number}", "1.0") for number in range(12)]
    collector.start()
    await stream.until_baseline()
    chance = random.Random(3)
    for package in packages:
        running = await asyncio.create_subprocess_exec(
            *map(str, dpkg.command("-i", package)), stdout=subprocess.DEVNULL
        )
        await asyncio.sleep(chance.uniform(0, 1.2))
        collector.end()
        await asyncio.sleep(chance.uniform(0, 0.1))
        collector.start()
        await running.wait()
    await stream.until(12)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("p12", "1.0"))
    await stream.until(13)
    summaries = await stream.all_after_stop(collector)
    assert sorted(summaries) == sorted(f"installed deb p{n} 1.0" for n in range(13))


def _install_many(dpkg: Dpkg, count: int) -> None:
    """As dpkg leaves the database after one large run."""
    text = ""
    for number in range(count):
        (dpkg.admin / f"info/mass-{number}.list").write_text("/.\n")
        text += (
            f"Package: mass-{number}\nStatus: install ok installed\nMaintainer: x\n"
            f"Architecture: amd64\nVersion: 1.{number}\nDescription: x\n\n"
        )
    (dpkg.admin / "status-new").write_text(text)
    (dpkg.admin / "status-new").rename(dpkg.admin / "status")


async def test_the_bus_may_be_away_while_packages_change(
    dpkg: Dpkg, collector: CollectorProcess, stream: Stream, nats_server: NatsServer
) -> None:
    collector.start()
    await stream.until_baseline()
    nats_server.signal(signal.SIGKILL)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("alpha", "1.0"))
    await asyncio.sleep(1)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("beta", "1.0"))
    nats_server.start()
    await wait_until(lambda: stream._bus.is_connected)
    assert await stream.until(2) == ["installed deb alpha 1.0", "installed deb beta 1.0"]
