"""A Kubernetes collector that a test starts, watches and stops in its own process."""

from __future__ import annotations

import asyncio
import time

import msgspec
from kubernetes_api import CLUSTER_UID

from sematext_agent.kubernetes_collector.__main__ import work
from sematext_agent.kubernetes_collector.cursor import WatchCursor
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock, SystemClock
from sematext_agent.shared.events import SECOND, Event, Gap, KubernetesEvent, decode
from sematext_agent.shared.health import Condition, Health
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
        return int(self.seconds * SECOND)


class FastWallClock(SystemClock):
    """The clock of the system, whose wall clock is `ahead_seconds` ahead."""

    def __init__(self) -> None:
        self.ahead_seconds = 0

    def wall_ns(self) -> int:
        """Return the nanoseconds since the epoch, moved ahead."""
        return SYSTEM_CLOCK.wall_ns() + self.ahead_seconds * SECOND


class Collecting:
    """One collector. It runs from its making on."""

    def __init__(self, bus: Bus, environ: dict[str, str], clock: Clock = SYSTEM_CLOCK) -> None:
        settings = load_settings(KubernetesSettings, environ)
        self.health = Health("kubernetes", settings.hostname)
        self.health.set_condition("bus", True, "connected")
        self.runtime = Runtime(settings, self.health, bus, asyncio.Event(), clock)
        self.task = asyncio.create_task(work(self.runtime))

    async def stop(self) -> None:
        """An orderly stop, as SIGTERM asks for."""
        self.runtime.stopping.set()
        async with asyncio.timeout(10):
            await self.task

    async def kill(self) -> None:
        """An end without a word: nothing is finished, nothing stored."""
        self.task.cancel()
        await asyncio.wait([self.task])

    @property
    def cluster(self) -> Condition:
        """The condition of readiness that speaks of the cluster."""
        conditions = self.health.report().conditions
        return conditions.get("cluster", Condition(False, "nothing yet"))

    def count(self, name: str, **labels: str) -> float:
        """The value of a counter or figure, summed over the labels that are not given."""
        return sum(
            sample.value
            for metric in self.health.registry.collect()
            for sample in metric.samples
            if sample.name in (f"sematext_agent_{name}_total", f"sematext_agent_{name}")
            and labels.items() <= sample.labels.items()
        )


async def told(bus: Bus) -> list[Event]:
    """Everything in the stream, in its order."""
    last = (await bus.manager.stream_info("EVENTS")).state.last_seq
    messages = [await bus.manager.get_msg("EVENTS", seq) for seq in range(1, last + 1)]
    return [decode(message.data) for message in messages]


async def until_told(bus: Bus, count: int, seconds: float = 10) -> list[Event]:
    """Everything in the stream, once it holds `count` events."""
    async with asyncio.timeout(seconds):
        while (await bus.manager.stream_info("EVENTS")).state.messages < count:
            await asyncio.sleep(0.01)
    return await told(bus)


PLACE_KEY = bucket_key("kubernetes", "prod", CLUSTER_UID)


async def stored_place(bus: Bus) -> WatchCursor | None:
    """The cursor in the bucket, of the cluster `prod`."""
    value = await bus.get(CURSORS_BUCKET, PLACE_KEY)
    return None if value is None else msgspec.json.decode(value, type=WatchCursor)


async def until_stored(bus: Bus, revision: int) -> WatchCursor:
    """The cursor in the bucket, once it has come to `revision`."""
    async with asyncio.timeout(10):
        while (place := await stored_place(bus)) is None or place.revision < revision:
            await asyncio.sleep(0.01)
    return place


async def store_place(bus: Bus, revision: int, ago: float = 0) -> None:
    """Leaves a cursor as a collector that was stopped `ago` seconds before would."""
    place = WatchCursor(revision, time.time() - ago)
    await bus.put(CURSORS_BUCKET, PLACE_KEY, msgspec.json.encode(place))


def gaps(events: list[Event]) -> list[Gap]:
    return [event.body for event in events if isinstance(event.body, Gap)]


def revisions(events: list[Event]) -> list[int]:
    """The revisions told, without the gaps."""
    return [int(e.body.resource_version) for e in events if isinstance(e.body, KubernetesEvent)]
