"""The real process, killed at the worst moments: every change is in the stream, and only once."""

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
from broker import NatsServer, eventually
from nats.js.api import KeyValueConfig, StreamConfig
from package_managers import Dpkg
from package_run import words_of

from sematext_agent.shared import events
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.subjects import CURSORS_BUCKET, EVENTS_STREAM, EVENTS_SUBJECTS


class Collector:
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
        """Ends it, and returns its exit status."""
        assert self._process is not None
        self._process.send_signal(number)
        return self._process.wait()

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.end()


class Told:
    """What the stream holds."""

    def __init__(self, bus: Bus) -> None:
        self._bus = bus
        self.words: list[str] = []

    async def until(self, count: int, seconds: float = 20) -> list[str]:
        """Waits until the stream holds `count` events or more."""
        async with asyncio.timeout(seconds):
            while (await self._state()).messages < count:
                await asyncio.sleep(0.005)
        return await self.all()

    async def _state(self):  # type: ignore[no-untyped-def]
        return (await self._bus.manager.stream_info(EVENTS_STREAM)).state

    async def all(self) -> list[str]:
        for seq in range(len(self.words) + 1, (await self._state()).last_seq + 1):
            message = await self._bus.manager.get_msg(EVENTS_STREAM, seq)
            self.words.append(words_of(events.decode(message.data)))
        return self.words

    async def all_at_the_end_of(self, collector: Collector) -> list[str]:
        """All there is once it has stopped in an orderly way, and so told what it still held."""
        assert await asyncio.to_thread(collector.end, signal.SIGTERM) == 0
        return await self.all()

    async def let_cursors(self, stored: bool) -> None:
        """Makes the bucket take cursors, or refuse them."""
        config = (await self._bus.manager.stream_info(f"KV_{CURSORS_BUCKET}")).config
        config.max_msg_size = -1 if stored else 1
        await self._bus.manager.update_stream(config)

    async def until_settled(self) -> None:
        """Waits until everything that is installed is known and stored."""
        async with asyncio.timeout(20):
            while b'"settled":[""' not in (
                await self._bus.get(CURSORS_BUCKET, "host.web-01.packages") or b""
            ):
                await asyncio.sleep(0.05)


@pytest.fixture
async def told(connection: Bus) -> Told:
    window = 15 * 60
    config = StreamConfig(EVENTS_STREAM, subjects=[EVENTS_SUBJECTS], duplicate_window=window)
    await connection.manager.add_stream(config)
    await connection.manager.create_key_value(KeyValueConfig(CURSORS_BUCKET))
    return Told(connection)


@pytest.fixture
def dpkg(tmp_path: Path) -> Dpkg:
    root = tmp_path / "host"
    root.mkdir()
    return Dpkg(root)


@pytest.fixture
def collector(dpkg: Dpkg, nats_server: NatsServer, tmp_path: Path) -> Iterator[Collector]:
    one = Collector(dpkg.root, nats_server.url, tmp_path / "collector.log")
    yield one
    one.stop()


async def test_what_happened_while_it_was_down_is_told(
    dpkg: Dpkg, collector: Collector, told: Told
) -> None:
    """Killed before the change; killed again right after it was told; stopped in an orderly way."""
    dpkg("-i", dpkg.build("alpha", "1.0"))
    collector.start()
    await told.until_settled()
    collector.end()
    dpkg("-i", dpkg.build("alpha", "1.1"), dpkg.build("beta", "1.0"))
    collector.start()
    expected = [
        "removed deb alpha 1.0 -> 1.1",
        "installed deb alpha 1.1 <- 1.0",
        "installed deb beta 1.0",
    ]
    assert await told.until(3) == expected
    collector.end()
    collector.start()
    await asyncio.to_thread(dpkg, "-i", dpkg.build("gamma", "1.0"))
    assert await told.until(4) == [*expected, "installed deb gamma 1.0"]
    assert collector.end(signal.SIGTERM) == 0
    collector.start()
    await asyncio.to_thread(dpkg, "-i", dpkg.build("delta", "1.0"))
    assert (await told.until(5))[4:] == ["installed deb delta 1.0"]
    assert len(await told.all_at_the_end_of(collector)) == 5


@pytest.mark.parametrize("killed_at", [1, 40, 299, 300])
async def test_killed_in_the_midst_of_telling_three_hundred(
    dpkg: Dpkg, collector: Collector, told: Told, killed_at: int
) -> None:
    """After so many are in the stream, and before the cursor: the rest comes, and none twice."""
    collector.start()
    await told.until_settled()
    _install_many(dpkg, 300)
    await told.until(killed_at)
    collector.end()
    # While it is down the database goes on: what was told keeps its id all the same.
    await asyncio.to_thread(dpkg, "-i", dpkg.build("later", "1.0"))
    collector.start()
    words = await told.until(301)
    assert len(words) == len(set(words)) == 301
    assert len(await told.all_at_the_end_of(collector)) == 301


async def test_killed_between_the_last_event_and_the_cursor(
    dpkg: Dpkg, collector: Collector, told: Told
) -> None:
    """The worst moment, held open: the bucket takes nothing until the process is dead. Everything
    is told again then, with the same ids, although the database has changed once more."""
    dpkg("-i", dpkg.build("goes", "1.0"), dpkg.build("old", "1.0"))
    collector.start()
    await told.until_settled()
    await told.let_cursors(False)
    await asyncio.to_thread(dpkg, "-P", "goes")
    await asyncio.to_thread(dpkg, "-i", dpkg.build("old", "2.0"), dpkg.build("alpha", "1.0"))
    await told.until(4)
    collector.end()
    await told.let_cursors(True)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("later", "1.0"))
    collector.start()
    assert (await told.until(5))[4:] == ["installed deb later 1.0"]
    assert len(await told.all_at_the_end_of(collector)) == 5


async def test_killed_again_and_again_while_packages_come(
    dpkg: Dpkg, collector: Collector, told: Told
) -> None:
    """Twelve installations by a real dpkg, and kills at random between and within them."""
    packages = [dpkg.build(f"p{number}", "1.0") for number in range(12)]
    collector.start()
    await told.until_settled()
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
    await told.until(12)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("p12", "1.0"))
    await told.until(13)
    words = await told.all_at_the_end_of(collector)
    assert sorted(words) == sorted(f"installed deb p{n} 1.0" for n in range(13))


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
    dpkg: Dpkg, collector: Collector, told: Told, nats_server: NatsServer
) -> None:
    collector.start()
    await told.until_settled()
    nats_server.signal(signal.SIGKILL)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("alpha", "1.0"))
    await asyncio.sleep(1)
    await asyncio.to_thread(dpkg, "-i", dpkg.build("beta", "1.0"))
    nats_server.start()
    await eventually(lambda: told._bus.is_connected)
    assert await told.until(2) == ["installed deb alpha 1.0", "installed deb beta 1.0"]
