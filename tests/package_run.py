"""A run of the packages half of the host collector inside a test, and the events it emitted."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Any, cast

from sematext_agent.host_collector.packages.watch import watch
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.bus import BucketEntry, Bus
from sematext_agent.shared.clock import SYSTEM_CLOCK
from sematext_agent.shared.events import NS_PER_SECOND, Event, PackageChange
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.waiting import run_until_event, wait_for_event

STEP_SECONDS = 0.05


class MemoryBucket:
    """The part of the bus that packages use: the cursors."""

    is_connected = True

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get_entry(self, bucket: str, key: str) -> BucketEntry:
        return BucketEntry(self.values.get(key), 0)


class SkippingClock:
    """The clocks of the system, ahead by the seconds that a test has skipped."""

    def __init__(self) -> None:
        self.skipped_seconds = 0.0

    def monotonic(self) -> float:
        return SYSTEM_CLOCK.monotonic() + self.skipped_seconds

    def boottime(self) -> float:
        return SYSTEM_CLOCK.boottime() + self.skipped_seconds

    def wall_ns(self) -> int:
        return SYSTEM_CLOCK.wall_ns() + int(self.skipped_seconds * NS_PER_SECOND)


class PackageRun:
    """One run of `packages.watch` on a directory that stands for a host's root.

    While the test awaits something real, such as a package manager, time passes as usual and the
    run follows it. Where the test only lets time pass (`pass_time`, `until`), it is skipped: each
    step moves the clock of the run and waits until the run has done what it does at that time.

    Cursors are stored as the collector stores them: after the events before them.
    """

    def __init__(
        self,
        root: Path | str,
        bucket: MemoryBucket | None = None,
        baselines: Collection[str] = ("",),
        **settings: Any,
    ) -> None:
        """Prepare a run.

        Args:
            root: the host's root.
            bucket: the cursors of a run before.
            baselines: what must be stored before the test goes on: ids of containers, "" the host.
            settings: settings that are not the default.
        """
        self._wanted_baselines = set(baselines)
        self.bucket = bucket or MemoryBucket()
        self.events: list[Event] = []
        self.stopping = asyncio.Event()
        self.clock = SkippingClock()
        self.health = Health("host", "web-01")
        self.settings = HostSettings(
            hostname_alias="web-01",
            host_root=str(root),
            **{"pkg_container_enabled": False} | settings,
        )
        self._ticked = asyncio.Event()
        self._waiting = asyncio.Event()

    async def __aenter__(self) -> PackageRun:
        bus = cast(Bus, self.bucket)
        runtime = Runtime(self.settings, self.health, bus, self.stopping, self.clock)
        self._task = asyncio.create_task(self._collect(runtime))
        await self.until(lambda: self._wanted_baselines <= self.baselines, seconds=20)
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        async with asyncio.timeout(10):
            await self._task

    async def _collect(self, runtime: Runtime[HostSettings]) -> None:
        async with aclosing(watch(runtime, self._wait)) as observations:
            async for observation in observations:
                if observation.event is not None:
                    self.events.append(observation.event)
                if observation.cursor is not None:
                    self.bucket.values[f"host.web-01.{observation.cursor_name}"] = (
                        observation.cursor
                    )

    async def _wait(
        self, stopping: asyncio.Event, watcher: DirectoryWatcher, seconds: float
    ) -> None:
        """Do the same as `wait_for_change`, by the clock of this run."""
        loop = asyncio.get_running_loop()
        deadline = self.clock.monotonic() + seconds
        is_notified = False

        def on_readable() -> None:
            nonlocal is_notified
            loop.remove_reader(watcher.fileno())
            is_notified = True
            self._ticked.set()

        loop.add_reader(watcher.fileno(), on_readable)
        try:
            while not is_notified and not stopping.is_set():
                remaining = deadline - self.clock.monotonic()
                if remaining <= 0:
                    return
                self._waiting.set()
                await run_until_event(stopping, wait_for_event(self._ticked, remaining))
                self._ticked.clear()
        finally:
            self._waiting.clear()
            loop.remove_reader(watcher.fileno())

    async def _step(self) -> None:
        """Skip a little time, and wait until the run has done what it does at that time."""
        self.clock.skipped_seconds += STEP_SECONDS
        self._waiting.clear()
        self._ticked.set()
        waiting = asyncio.create_task(self._waiting.wait())
        await asyncio.wait((waiting, self._task), timeout=20, return_when="FIRST_COMPLETED")
        waiting.cancel()
        if self._task.done():
            self._task.result()  # raises the fault of the run
        assert self._waiting.is_set(), "a round takes too long"

    @property
    def baselines(self) -> set[str]:
        """The containers, and the host as "", whose baseline is stored."""
        index = self.bucket.values.get("host.web-01.packages")
        return set(json.loads(index)["settled"]) if index else set()

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Let time pass until `condition` holds; a fault of the run is raised at once."""
        deadline = self.clock.monotonic() + seconds
        while not condition():
            assert self.clock.monotonic() < deadline, f"events until now: {self.summaries()}"
            await self._step()

    async def pass_time(self, seconds: float = 1.2) -> None:
        """Let time pass, by default enough for every event that is pending."""
        deadline = self.clock.monotonic() + seconds
        while self.clock.monotonic() < deadline:
            await self._step()

    async def expect_events(self, count: int, seconds: float = 2) -> list[str]:
        """Wait for that many events in all, then a little longer for one too many.

        The bound of two seconds from the end of the package manager on is a promise to users.
        """
        await self.until(lambda: len(self.events) >= count, seconds)
        await self.pass_time(0.3)
        assert len(self.events) == count, self.summaries()
        assert max(Counter(event.id for event in self.events).values()) == 1
        return self.summaries()

    def summaries(self) -> list[str]:
        """Return the events in one line each: `installed deb a 1.0`, `removed deb a 1.0 -> 2.0`."""
        return [summarize(event) for event in self.events]


def summarize(event: Event) -> str:
    """Return an event of a package in one line."""
    body = event.body
    assert isinstance(body, PackageChange)
    version = body.previous_version or body.next_version
    arrow = {"installed": "<-", "removed": "->"}[body.change]
    text = f"{body.change} {body.manager} {body.name} {body.version}"
    return f"{text} {arrow} {version}" if version else text


def write_distribution(site: Path, name: str, version: str) -> None:
    """Write the metadata of a Python package into the directory `site`, as pip does."""
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (info / "RECORD").touch()
