"""A Kubernetes collector that a test starts, watches and stops in its own process."""

from __future__ import annotations

import asyncio
import time

import msgspec
import pytest
from broker import wait_until
from kubernetes_api import CLUSTER_UID, ApiServer

from sematext_agent.kubernetes_collector import retry_policy
from sematext_agent.kubernetes_collector.__main__ import work
from sematext_agent.kubernetes_collector.cursor import WatchCursor
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock, SystemClock
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, KubernetesEvent, decode
from sematext_agent.shared.health import Condition, Health
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import load_settings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        """Return the seconds of the test."""
        return self.seconds

    boottime = monotonic

    def wall_ns(self) -> int:
        """Return the same in nanoseconds since the epoch."""
        return int(self.seconds * NS_PER_SECOND)


class FastWallClock(SystemClock):
    """The clock of the system, whose wall clock is `ahead_seconds` ahead."""

    def __init__(self) -> None:
        self.ahead_seconds = 0

    def wall_ns(self) -> int:
        """Return the nanoseconds since the epoch, moved ahead."""
        return SYSTEM_CLOCK.wall_ns() + self.ahead_seconds * NS_PER_SECOND


class RunningCollector:
    """A collector that runs from its creation on."""

    def __init__(self, bus: Bus, environ: dict[str, str], clock: Clock = SYSTEM_CLOCK) -> None:
        settings = load_settings(KubernetesSettings, environ)
        self.health = Health("kubernetes", settings.hostname)
        self.health.set_condition("bus", True, "connected")
        self.runtime = Runtime(settings, self.health, bus, asyncio.Event(), clock)
        self.task = asyncio.create_task(work(self.runtime))

    async def stop(self) -> None:
        """Stop in order, as after SIGTERM."""
        self.runtime.stopping.set()
        async with asyncio.timeout(10):
            await self.task

    async def kill(self) -> None:
        """End at once, as SIGKILL does: nothing is finished, nothing stored."""
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def cluster(self) -> Condition:
        """The condition `cluster` of the health."""
        conditions = self.health.report().conditions
        return conditions.get("cluster", Condition(False, "nothing yet"))

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a counter or figure, summed over the labels that are left open."""
        return sum(
            sample.value
            for metric in self.health.registry.collect()
            for sample in metric.samples
            if sample.name in (f"sematext_agent_{name}_total", f"sematext_agent_{name}")
            and labels.items() <= sample.labels.items()
        )


async def published_events(bus: Bus) -> list[Event]:
    """Return all events of the stream, in its order."""
    last = (await bus.manager.stream_info("EVENTS")).state.last_seq
    messages = [await bus.manager.get_msg("EVENTS", seq) for seq in range(1, last + 1)]
    return [decode(message.data) for message in messages]


async def wait_for_events(bus: Bus, count: int, seconds: float = 10) -> list[Event]:
    """Return all events of the stream, once it holds `count`."""
    async with asyncio.timeout(seconds):
        while (await bus.manager.stream_info("EVENTS")).state.messages < count:
            await asyncio.sleep(0.01)
    return await published_events(bus)


CURSOR_KEY = bucket_key("kubernetes", "prod", CLUSTER_UID)


async def stored_cursor(bus: Bus) -> WatchCursor | None:
    """Return the cursor in the bucket, of the cluster `prod`."""
    value = await bus.get(CURSORS_BUCKET, CURSOR_KEY)
    return None if value is None else msgspec.json.decode(value, type=WatchCursor)


async def wait_for_watches(cluster: ApiServer, count: int) -> None:
    """Wait until the server has received `count` watch requests."""
    await wait_until(lambda: len(cluster.watches()) >= count)


async def wait_for_cursor(bus: Bus, revision: int) -> WatchCursor:
    """Return the cursor in the bucket, once it has reached `revision`."""
    async with asyncio.timeout(10):
        while (cursor := await stored_cursor(bus)) is None or cursor.revision < revision:
            await asyncio.sleep(0.01)
    return cursor


async def store_cursor(bus: Bus, revision: int, ago: float = 0) -> None:
    """Store a cursor as a collector that was stopped `ago` seconds before."""
    cursor = WatchCursor(revision, time.time() - ago)
    await bus.put(CURSORS_BUCKET, CURSOR_KEY, msgspec.json.encode(cursor))


def gaps(events: list[Event]) -> list[Gap]:
    return [event.body for event in events if isinstance(event.body, Gap)]


def revisions(events: list[Event]) -> list[int]:
    """Return the revisions of `events`, without the gaps."""
    return [int(e.body.resource_version) for e in events if isinstance(e.body, KubernetesEvent)]


def count_backoffs(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """Return a list that collects the upper bound of each backoff; none is waited for."""
    waits: list[float] = []

    class Counting(Backoff):
        def draw_delay_seconds(self) -> float:
            waits.append(min(self._seconds_max, self._first_seconds * 2**self.failures))
            super().draw_delay_seconds()
            return 0.01

    monkeypatch.setattr(retry_policy, "Backoff", Counting)
    return waits
