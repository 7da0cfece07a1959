"""What every collector does with what it sees: publish, wait for the word, move the cursor.

A collector is one async generator, `watch`, that yields `Observed`. Each event is published with
its id in a bounded window of publishes that are not acknowledged yet, and the cursor of the longest
acknowledged prefix is stored. While the window is full, or the broker is away, nothing more is
taken from the generator: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Callable
from contextlib import aclosing
from functools import partial
from typing import NamedTuple, TypeVar

import msgspec

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.bus import Bus, BusError, PublishAck
from sematext_agent.shared.events import EVENT_BYTES_MAX, Event, Gap, encode, event_id
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime, Work
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key, subject_of

log = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)

WINDOW_EVENTS_MAX = 1024
"""How many events may be published and not yet acknowledged; at the limit the source waits."""
_CURSOR_SECONDS_MIN = 0.2
_LOOKING_SECONDS_MAX = 1.0


class Observation(msgspec.Struct, frozen=True):
    """An event, and the cursor that holds once the event and all before it are safe.

    Either may be absent: a cursor can move alone, and several events can share one cursor, which
    then comes with the last of them.
    """

    event: Event | None
    cursor: bytes | None = None
    cursor_name: str = ""
    """Which of the source's cursors it is, for a source that has several."""


Watch = Callable[[Runtime[S], bytes | None], AsyncIterator[Observation]]
"""`watch(runtime, cursor)`: what happens at the source, from the stored cursor on (None: the first
run). It returns after `runtime.stopping` is set, once what it holds has been yielded."""


def collect(watch: Watch[S]) -> Work[S]:
    """The work of a collector: everything that `watch` sees, on the bus."""

    async def work(runtime: Runtime[S]) -> None:
        async with asyncio.TaskGroup() as tasks:
            looking = asyncio.Event()
            pump = tasks.create_task(_pump(watch, runtime, looking), name="pump")
            await runtime.stopping.wait()
            # Just started, it may still have a stop to tell; without streams it holds nothing.
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(looking.wait(), _LOOKING_SECONDS_MAX)
            if not looking.is_set():
                pump.cancel()
            _, late = await asyncio.wait([pump], timeout=runtime.settings.drain_seconds)
            if late:
                log.warning("stopping with events not yet safe: the next start reads them again")
                pump.cancel()

    return work


async def _pump(watch: Watch[S], runtime: Runtime[S], looking: asyncio.Event) -> None:
    """Watches and publishes; sets `looking` when it begins to look at the source."""
    bus, health = runtime.bus, runtime.health
    await bus.wait_until_ready(CURSORS_BUCKET)
    cursor = await read_cursor(runtime)
    looking.set()
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, health, tasks)
        keeper = tasks.create_task(_keep_cursors(window, runtime), name="cursor")
        async with aclosing(watch(runtime, cursor)) as observations:  # type: ignore[type-var]
            async for observed in observations:
                await window.put(observed)
        if not runtime.stopping.is_set():
            raise RuntimeError("the watch of the source ended by itself")
        await window.drain()
        keeper.cancel()
    await _store_cursors(window, runtime)


async def read_cursor(runtime: Runtime[S], part: str = "") -> bytes | None:
    """The stored cursor of this collector on this host; waits while the bus cannot be read."""
    return await runtime.cursors.read(_cursor_key(runtime, part))


def _cursor_key(runtime: Runtime[S], part: str) -> str:
    return bucket_key(runtime.health.service, runtime.origin, *([part] if part else []))


async def _keep_cursors(window: PublishWindow, runtime: Runtime[S]) -> None:
    while True:
        await window.moved.wait()
        await _store_cursors(window, runtime)
        await asyncio.sleep(_CURSOR_SECONDS_MIN)


async def _store_cursors(window: PublishWindow, runtime: Runtime[S]) -> None:
    window.moved.clear()
    for part, cursor in list(window.cursors.items()):
        await runtime.cursors.store(_cursor_key(runtime, part), cursor)
        # Forgotten only now: the end of a service interrupts this, and then stores what is left.
        if window.cursors[part] is cursor:
            del window.cursors[part]


class _Outgoing(NamedTuple):
    """What is published of an event."""

    subject: str
    payload: bytes
    message_id: str


class _Entry:
    """One observation on its way to safety."""

    __slots__ = ("kind", "message", "observed", "safe", "since")

    def __init__(self, observed: Observation, message: _Outgoing | None, kind: str = "") -> None:
        self.observed = observed
        self.message = message
        self.kind = kind
        self.since = time.monotonic()
        self.safe = observed.event is None


class PublishWindow:
    """Publishes in order, a bounded number at a time, and knows the longest safe prefix."""

    def __init__(self, bus: Bus, health: Health, tasks: asyncio.TaskGroup) -> None:
        self._bus = bus
        self._health = health
        self._tasks = tasks
        self._entries: deque[_Entry] = deque()
        self._room = asyncio.Event()
        self.cursors: dict[str, bytes] = {}
        """By part: what holds now, because everything before it is safe, and is not stored yet."""
        self.moved = asyncio.Event()
        published = health.add_counter("events_published", "Events safe in the stream.", "kind")
        self._published = functools.cache(published.labels)
        # From 0 on, or Prometheus would see no increase in the first one.
        self._published(Gap.__name__)
        self._duplicates = health.add_counter("events_duplicate", "Events the stream had already.")
        self._too_large = health.add_counter(
            "events_too_large", "Events told as a gap for their size."
        )
        health.add_figure(
            "events_unacknowledged", "Events published and not yet safe.", self.__len__
        )
        health.add_figure(
            "oldest_unacknowledged_seconds", "Age of the oldest event that is not safe.", self.age
        )

    def __len__(self) -> int:
        return len(self._entries)

    def age(self) -> float:
        """How many seconds the oldest event has waited for its acknowledgement."""
        return time.monotonic() - self._entries[0].since if self._entries else 0.0

    async def put(self, observed: Observation) -> None:
        """Takes one observation; waits while the window is full, then until a quarter is free."""
        if len(self._entries) >= WINDOW_EVENTS_MAX:
            await self._until_at_most(WINDOW_EVENTS_MAX * 3 // 4)
        if observed.event is None:
            self._entries.append(_Entry(observed, None))
            self._advance()
            return
        event, payload = _within_bounds(observed.event)
        if event is not observed.event:
            self._too_large.inc()
            assert isinstance(event.body, Gap)
            self._health.record_error(f"an event is too large for the stream: {event.body.detail}")
        message = _Outgoing(subject_of(event), payload, event.id)
        entry = _Entry(observed, message, event.body.__class__.__name__)
        self._entries.append(entry)
        answer = await self._bus.begin_publish(*message)
        answer.add_done_callback(partial(self._on_answer, entry))

    async def drain(self) -> None:
        """Waits until everything that was put is safe."""
        await self._until_at_most(0)

    async def _until_at_most(self, entries: int) -> None:
        while len(self._entries) > entries:
            self._room.clear()
            await self._room.wait()

    def _on_answer(self, entry: _Entry, answer: asyncio.Future[PublishAck]) -> None:
        if answer.cancelled():
            return
        error = answer.exception()
        if error is None:
            self._is_safe(entry, answer.result())
        else:
            self._tasks.create_task(self._repeat(entry, error))

    async def _repeat(self, entry: _Entry, error: BaseException) -> None:
        """Publishes again until it is acknowledged: refused or unanswered, the event is still ours,
        and so is its place in the order."""
        assert entry.message is not None
        backoff = Backoff(0.1, 10)
        while True:
            self._health.set_condition("stream", False, str(error))
            await asyncio.sleep(backoff.draw_delay_seconds())
            try:
                answer = await self._bus.publish(*entry.message)
                break
            except BusError as another:
                error = another
        self._health.set_condition("stream", True, "accepts events")
        self._is_safe(entry, answer)

    def _is_safe(self, entry: _Entry, answer: PublishAck) -> None:
        self._published(entry.kind).inc()
        if answer.duplicate:
            self._duplicates.inc()
        entry.safe = True
        self._advance()

    def _advance(self) -> None:
        while self._entries and self._entries[0].safe:
            observed = self._entries.popleft().observed
            if observed.cursor is not None:
                self.cursors[observed.cursor_name] = observed.cursor
                self.moved.set()
        self._room.set()


def _within_bounds(event: Event) -> tuple[Event, bytes]:
    """The event and its encoding; or, where it is too large for the stream, a Gap in its place."""
    payload = encode(event)
    if len(payload) <= EVENT_BYTES_MAX:
        return event, payload
    subject = subject_of(event)
    gap = Gap(
        source=subject.split(".")[1],
        reason="too_large",
        since=event.time,
        until=event.time,
        detail=f"{subject} was {len(payload)} bytes, over the limit of {EVENT_BYTES_MAX}",
        lost=1,
    )
    event = Event(
        id=event_id(event.id, "too_large"),
        time=event.time,
        origin=event.origin,
        agent=AGENT_VERSION,
        body=gap,
    )
    return event, encode(event)
