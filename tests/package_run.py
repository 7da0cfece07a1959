"""A run of the packages half of the host collector inside a test, and what it told."""

from __future__ import annotations

import asyncio
import json
import time
from collections import Counter
from collections.abc import Callable, Collection
from contextlib import aclosing
from pathlib import Path
from typing import Any

from broker import eventually

from sematext_agent.host_collector import packages
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.bus import BucketEntry
from sematext_agent.shared.events import Event, PackageChange
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime


class MemoryBucket:
    """What of the bus the packages use: the cursors."""

    is_connected = True

    def __init__(self) -> None:
        self.values: dict[str, bytes] = {}

    async def get_entry(self, bucket: str, key: str) -> BucketEntry:
        return BucketEntry(self.values.get(key), 0)


class Run:
    """One run of `packages.changes` on a tree that stands for a host's.

    Cursors are kept as the collector keeps them: after the events before them.
    """

    def __init__(
        self,
        root: Path | str,
        bucket: MemoryBucket | None = None,
        settled: Collection[str] = ("",),
        **settings: Any,
    ) -> None:
        """
        Args:
            settled: what must be known before the test goes on: ids of containers, "" is the host.
        """
        self._settled = set(settled)
        self.bucket = bucket or MemoryBucket()
        self.told: list[Event] = []
        self.arrived: list[float] = []
        self.stopping = asyncio.Event()
        self.health = Health("host", "web-01")
        self.settings = HostSettings(
            hostname_alias="web-01",
            host_root=str(root),
            **{"pkg_container_enabled": False} | settings,
        )

    async def __aenter__(self) -> Run:
        runtime = Runtime(self.settings, self.health, self.bucket, self.stopping)  # type: ignore[arg-type]
        self._task = asyncio.create_task(self._take(runtime))
        await self.until_settled()
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        async with asyncio.timeout(10):
            await self._task

    async def _take(self, runtime: Runtime[HostSettings]) -> None:
        async with aclosing(packages.changes(runtime)) as observations:
            async for observed in observations:
                if observed.event is not None:
                    self.told.append(observed.event)
                    self.arrived.append(time.monotonic())
                if observed.cursor is not None:
                    self.bucket.values[f"host.web-01.{observed.cursor_name}"] = observed.cursor

    async def until_settled(self) -> None:
        """Waits until everything that is there is known and stored."""
        await self.until(lambda: self._settled <= self.settled_trees(), seconds=20)

    def settled_trees(self) -> set[str]:
        """The containers, and the host as "", of which everything is known and stored."""
        index = self.bucket.values.get("host.web-01.packages")
        return set(json.loads(index)["settled"]) if index else set()

    async def until(self, condition: Callable[[], bool], seconds: float) -> None:
        """Waits until `condition` holds; a fault of the run is raised at once."""

        def holds() -> bool:
            if self._task.done():
                self._task.result()
            return condition()

        try:
            await eventually(holds, seconds)
        except TimeoutError:
            raise AssertionError(f"told so far: {self.words()}") from None

    async def quiet(self, seconds: float = 1.2) -> None:
        """Waits long enough for anything to be told that would be. Only to show that nothing is."""
        await asyncio.sleep(seconds)

    async def until_told(self, count: int, seconds: float = 2) -> list[str]:
        """Waits for that many events in all, then a little longer for one too many.

        Two seconds are what the issue allows from the end of the package manager on.
        """
        await self.until(lambda: len(self.told) >= count, seconds)
        await self.quiet(0.3)
        assert len(self.told) == count, self.words()
        assert max(Counter(event.id for event in self.told).values()) == 1
        return self.words()

    def words(self) -> list[str]:
        """What was told so far: `installed deb a 1.0 (all)`, with the other side of an upgrade."""
        return [words_of(event) for event in self.told]


def words_of(event: Event) -> str:
    """An event of a package in one line."""
    body = event.body
    assert isinstance(body, PackageChange)
    other = body.previous_version or body.next_version
    arrow = {"installed": "<-", "removed": "->"}[body.change]
    text = f"{body.change} {body.manager} {body.name} {body.version}"
    return f"{text} {arrow} {other}" if other else text
