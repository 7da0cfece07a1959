"""The work of every collector: publish what its source yields, and store the cursor behind it.

A collector is one async generator, `watch`, that yields `Observation`s. Each event is published
with its id in a bounded window of publishes that are not acknowledged yet, and the cursor of the
longest acknowledged prefix is stored. While the window is full, or the broker is away, nothing more
is taken from the generator: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import functools
import logging
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from sematext_agent.shared.bus import Bus, BusError, PublishAck
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.events import EVENT_BYTES_MAX, Event, Gap, encode
from sematext_agent.shared.gaps import gap_event
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff, Uniform, retry
from sematext_agent.shared.service import Runtime, Work
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key, subject_of
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)

WINDOW_EVENTS_MAX = 1024
"""Bound of the events that are published and not yet acknowledged; then the source waits."""
CURSOR_SECONDS_MIN = 0.2
"""Least time between two writes of the cursors."""
START_SECONDS_MAX = 1.0
"""Time that a service which is stopped while it starts has to begin its watch."""


class Observation(msgspec.Struct, frozen=True):
    """An event, and the cursor that holds once the event and all before it are safe.

    Either may be absent: a cursor can move alone, and several events can share one cursor, which
    then comes with the last of them.
    """

    event: Event | None
    cursor: bytes | None = None
    cursor_name: str = ""
    """The name of the cursor, for a source that has several."""


Watch = Callable[[Runtime[S], bytes | None], AsyncIterator[Observation]]
"""`watch(runtime, cursor)`: yields what happens at the source, from the stored cursor on (None: the
first run). It returns after `runtime.stopping` is set, once what it holds has been yielded."""


def collect(watch: Watch[S]) -> Work[S]:
    """Return the work of a collector: to publish everything that `watch` yields."""

    async def work(runtime: Runtime[S]) -> None:
        async with asyncio.TaskGroup() as tasks:
            watching = asyncio.Event()
            pump = tasks.create_task(_pump(watch, runtime, watching), name="pump")
            await runtime.stopping.wait()
            # Just started, it may still have the stop itself to publish.
            if not await wait_for_event(watching, START_SECONDS_MAX):
                pump.cancel()
            _, unfinished = await asyncio.wait([pump], timeout=runtime.settings.drain_seconds)
            if unfinished:
                log.warning("stopping with events not yet safe: the next start reads them again")
                pump.cancel()

    return work


async def _pump(watch: Watch[S], runtime: Runtime[S], watching: asyncio.Event) -> None:
    """Watch and publish; set `watching` when the watch of the source begins."""
    await runtime.bus.wait_until_ready(CURSORS_BUCKET)
    cursor = await read_cursor(runtime)
    watching.set()
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(runtime.bus, runtime.health, tasks, runtime.clock, runtime.uniform)
        keeper = tasks.create_task(_keep_cursors(window, runtime), name="cursor")
        async with aclosing(watch(runtime, cursor)) as observations:  # type: ignore[type-var]
            async for observation in observations:
                await window.put(observation)
        if not runtime.stopping.is_set():
            raise RuntimeError("the watch of the source ended by itself")
        await window.drain()
        keeper.cancel()
    await _store_cursors(window, runtime)


async def read_cursor(runtime: Runtime[S], cursor_name: str = "") -> bytes | None:
    """Return the stored cursor of this collector; waits while the bus cannot be read."""
    return await runtime.cursors.read(_cursor_key(runtime, cursor_name))


def _cursor_key(runtime: Runtime[S], cursor_name: str) -> str:
    return bucket_key(
        runtime.health.service, runtime.origin, *([cursor_name] if cursor_name else [])
    )


async def _keep_cursors(window: PublishWindow, runtime: Runtime[S]) -> None:
    while True:
        await window.cursors_moved.wait()
        await _store_cursors(window, runtime)
        await asyncio.sleep(CURSOR_SECONDS_MIN)


async def _store_cursors(window: PublishWindow, runtime: Runtime[S]) -> None:
    window.cursors_moved.clear()
    for name, cursor in list(window.cursors.items()):
        await runtime.cursors.store(_cursor_key(runtime, name), cursor)
        # Removed only now: the end of a service interrupts this, and then stores the rest.
        if window.cursors[name] is cursor:
            del window.cursors[name]


class _Outgoing(NamedTuple):
    """The arguments of a publish."""

    subject: str
    payload: bytes
    message_id: str


class _Entry:
    """One observation in the window."""

    __slots__ = ("is_safe", "kind", "message", "observation", "since_seconds")

    def __init__(
        self,
        observation: Observation,
        message: _Outgoing | None,
        since_seconds: float,
        kind: str = "",
    ) -> None:
        """Take an observation, and for its event the `message` to publish and its `kind`."""
        self.observation = observation
        self.message = message
        self.since_seconds = since_seconds
        self.kind = kind
        self.is_safe = observation.event is None


class PublishWindow:
    """A bounded window of publishes in their order, with the cursor of its longest safe prefix."""

    def __init__(
        self,
        bus: Bus,
        health: Health,
        tasks: asyncio.TaskGroup,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Uniform | None = None,
    ) -> None:
        """Publish on `bus`, repeat in `tasks`, and add the window's metrics to `health`."""
        self._bus = bus
        self._health = health
        self._tasks = tasks
        self._clock = clock
        self._uniform = uniform
        self._entries: deque[_Entry] = deque()
        self._space = asyncio.Event()
        self.cursors: dict[str, bytes] = {}
        """By name: the cursors that hold now and are not stored yet."""
        self.cursors_moved = asyncio.Event()
        published = health.add_counter("events_published", "Events safe in the stream.", "kind")
        self._published = functools.cache(published.labels)
        # From 0 on, or Prometheus would see no increase in the first one.
        self._published(Gap.__name__)
        self._duplicates = health.add_counter("events_duplicate", "Events the stream had already.")
        self._too_large = health.add_counter(
            "events_too_large", "Events replaced by a gap for their size."
        )
        health.add_figure(
            "events_unacknowledged", "Events published and not yet safe.", self.__len__
        )
        health.add_figure(
            "oldest_unacknowledged_seconds", "Age of the oldest event that is not safe.", self.age
        )

    def __len__(self) -> int:
        """Return the number of observations that are not safe."""
        return len(self._entries)

    def age(self) -> float:
        """Return for how many seconds the oldest event has waited for its acknowledgement."""
        if not self._entries:
            return 0.0
        return self._clock.monotonic() - self._entries[0].since_seconds

    async def put(self, observation: Observation) -> None:
        """Take one observation; wait while the window is full, then until a quarter is free."""
        if len(self._entries) >= WINDOW_EVENTS_MAX:
            await self._wait_for_length(WINDOW_EVENTS_MAX * 3 // 4)
        if observation.event is None:
            self._entries.append(_Entry(observation, None, self._clock.monotonic()))
            self._advance()
            return
        event, payload = _encode_within_bounds(observation.event)
        if event is not observation.event:
            self._too_large.inc()
            assert isinstance(event.body, Gap)
            self._health.record_error(f"an event is too large for the stream: {event.body.detail}")
        message = _Outgoing(subject_of(event), payload, event.id)
        kind = event.body.__class__.__name__
        entry = _Entry(observation, message, self._clock.monotonic(), kind)
        self._entries.append(entry)
        answer = await self._bus.begin_publish(*message)
        answer.add_done_callback(partial(self._on_answer, entry))

    async def drain(self) -> None:
        """Wait until every observation is safe."""
        await self._wait_for_length(0)

    async def _wait_for_length(self, entries_max: int) -> None:
        while len(self._entries) > entries_max:
            self._space.clear()
            await self._space.wait()

    def _on_answer(self, entry: _Entry, answer: asyncio.Future[PublishAck]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._mark_safe(entry, answer.result())
        else:
            self._tasks.create_task(self._republish(entry, error))

    async def _republish(self, entry: _Entry, error: BaseException) -> None:
        """Publish an entry, which keeps its place in the order, until it is acknowledged."""
        assert entry.message is not None
        backoff = Backoff(0.1, 10, self._uniform)

        def report(error: BaseException) -> None:
            self._health.set_condition("stream", False, str(error))

        report(error)
        await asyncio.sleep(backoff.draw_delay_seconds())
        publish = partial(self._bus.publish, *entry.message)
        answer = await retry(publish, BusError, backoff, report)
        self._health.set_condition("stream", True, "accepts events")
        self._mark_safe(entry, answer)

    def _mark_safe(self, entry: _Entry, answer: PublishAck) -> None:
        self._published(entry.kind).inc()
        if answer.duplicate:
            self._duplicates.inc()
        entry.is_safe = True
        self._advance()

    def _advance(self) -> None:
        while self._entries and self._entries[0].is_safe:
            observation = self._entries.popleft().observation
            if observation.cursor is not None:
                self.cursors[observation.cursor_name] = observation.cursor
                self.cursors_moved.set()
        self._space.set()


def _encode_within_bounds(event: Event) -> tuple[Event, bytes]:
    """Return the event and its encoding, or a gap for an event too large for the stream."""
    payload = encode(event)
    if len(payload) <= EVENT_BYTES_MAX:
        return event, payload
    subject = subject_of(event)
    gap = gap_event(
        event.id,
        "too_large",
        source=subject.split(".")[1],
        origin=event.origin,
        reason="too_large",
        since=event.time,
        until=event.time,
        detail=f"{subject} was {len(payload)} bytes, over the limit of {EVENT_BYTES_MAX}",
        lost=1,
    )
    return gap, encode(gap)
