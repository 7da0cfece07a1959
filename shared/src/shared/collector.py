"""What every collector does with what it sees: publish, wait for the word, move the cursor.

A collector is one async generator, `watch`, that yields `Observed`. Each event is published with
its id in a bounded window of publishes that are not acknowledged yet, and the cursor of the longest
acknowledged prefix is stored. While the window is full, or the broker is away, nothing more is
taken from the generator: that is the back-pressure.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import aclosing
from functools import partial
from typing import TypeVar

import msgspec

from shared import AGENT_VERSION
from shared.bus import Bus, BusError
from shared.events import EVENT_BYTES_MAX, Event, Gap, encode, event_id
from shared.health import Health
from shared.retry import Backoff
from shared.service import Runtime, Work
from shared.settings import ServiceSettings
from shared.subjects import CURSORS, key, subject_of

log = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)
T = TypeVar("T")

WINDOW_EVENTS_MAX = 1024
"""How many events may be published and not yet acknowledged; at the limit the source waits."""
_CURSOR_SECONDS_MIN = 0.2


class Observed(msgspec.Struct, frozen=True):
    """An event, and the cursor that holds once the event and all before it are safe.

    Either may be absent: a cursor can move alone, and several events can share one cursor, which
    then comes with the last of them.
    """

    event: Event | None
    cursor: bytes | None = None
    part: str = ""
    """Which of the source's cursors it is, for a source that has several."""


Watch = Callable[[Runtime[S], bytes | None], AsyncIterator[Observed]]
"""`watch(runtime, cursor)`: what happens at the source, from the stored cursor on (None: the first
run). It returns after `runtime.stopping` is set, once what it holds has been yielded."""


def collect(watch: Watch[S]) -> Work[S]:
    """The work of a collector: everything that `watch` sees, on the bus."""

    async def work(runtime: Runtime[S]) -> None:
        async with asyncio.TaskGroup() as tasks:
            looking = asyncio.Event()
            pump = tasks.create_task(_pump(watch, runtime, looking), name="pump")
            await runtime.stopping.wait()
            if not looking.is_set():
                pump.cancel()  # it holds nothing that could be brought to safety
            _, late = await asyncio.wait([pump], timeout=runtime.settings.drain_seconds)
            if late:
                log.warning("stopping with events not yet safe: the next start reads them again")
                pump.cancel()

    return work


async def _pump(watch: Watch[S], runtime: Runtime[S], looking: asyncio.Event) -> None:
    """Watches and publishes; sets `looking` when it begins to look at the source."""
    bus, health = runtime.bus, runtime.health
    await bus.until_ready(CURSORS)
    cursor = await read_cursor(runtime)
    looking.set()
    async with asyncio.TaskGroup() as tasks:
        window = Window(bus, health, tasks)
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
    cursor_key = _cursor_key(runtime, part)
    return await _persist(lambda: runtime.bus.get(CURSORS, cursor_key))


def _cursor_key(runtime: Runtime[S], part: str) -> str:
    return key(runtime.health.service, runtime.origin, *([part] if part else []))


async def _keep_cursors(window: Window, runtime: Runtime[S]) -> None:
    while True:
        await window.moved.wait()
        await _store_cursors(window, runtime)
        await asyncio.sleep(_CURSOR_SECONDS_MIN)


async def _store_cursors(window: Window, runtime: Runtime[S]) -> None:
    window.moved.clear()
    while window.cursors:
        part, cursor = window.cursors.popitem()
        await _persist(partial(runtime.bus.put, CURSORS, _cursor_key(runtime, part), cursor))


async def _persist(attempt: Callable[[], Awaitable[T]]) -> T:
    """What `attempt` returns, once the bus lets it."""
    backoff = Backoff()
    while True:
        try:
            return await attempt()
        except BusError as error:
            log.debug("%s", error)
            await asyncio.sleep(backoff.next_seconds())


class _Entry:
    """One observation on its way to safety."""

    __slots__ = ("observed", "safe", "since")

    def __init__(self, observed: Observed) -> None:
        self.observed = observed
        self.since = time.monotonic()
        self.safe = observed.event is None


class Window:
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
        self._published = health.counter("events_published", "Events safe in the stream.", "kind")
        self._duplicates = health.counter("events_duplicate", "Events the stream had already.")
        health.figure("unacknowledged", "Events published and not yet safe.", self.__len__)
        health.figure(
            "oldest_unacknowledged_seconds", "Age of the oldest event that is not safe.", self.age
        )

    def __len__(self) -> int:
        return len(self._entries)

    def age(self) -> float:
        """How many seconds the oldest event has waited for its acknowledgement."""
        return time.monotonic() - self._entries[0].since if self._entries else 0.0

    async def put(self, observed: Observed) -> None:
        """Takes one observation; waits while the window is full."""
        await self._until_at_most(WINDOW_EVENTS_MAX - 1)
        entry = _Entry(observed)
        self._entries.append(entry)
        if observed.event is None:
            self._advance()
        else:
            self._tasks.create_task(self._publish(entry, observed.event))

    async def drain(self) -> None:
        """Waits until everything that was put is safe."""
        await self._until_at_most(0)

    async def _until_at_most(self, entries: int) -> None:
        while len(self._entries) > entries:
            self._room.clear()
            await self._room.wait()

    async def _publish(self, entry: _Entry, event: Event) -> None:
        event, payload = _within_bounds(event)
        subject = subject_of(event)
        backoff = Backoff(0.1, 10)
        while True:
            try:
                answer = await self._bus.publish(subject, payload, event.id)
                break
            except BusError as error:
                # Refused or unanswered, the event is still ours, and so is its place in the order.
                self._health.set("stream", False, str(error))
                await asyncio.sleep(backoff.next_seconds())
        if backoff.failures:
            self._health.set("stream", True, "accepts events")
        self._published.labels(event.body.__class__.__name__).inc()
        if answer.duplicate:
            self._duplicates.inc()
        entry.safe = True
        self._advance()

    def _advance(self) -> None:
        while self._entries and self._entries[0].safe:
            observed = self._entries.popleft().observed
            if observed.cursor is not None:
                self.cursors[observed.part] = observed.cursor
                self.moved.set()
        self._room.set()


def _within_bounds(event: Event) -> tuple[Event, bytes]:
    """The event and its encoding; or, where it is too large for the stream, a Gap in its place."""
    payload = encode(event)
    if len(payload) <= EVENT_BYTES_MAX:
        return event, payload
    subject = subject_of(event)
    log.warning("an event of %d bytes is too large for the stream: %s", len(payload), subject)
    gap = Gap(
        source=subject.split(".")[1], reason="too_large", since=event.time, until=event.time,
        detail=f"{subject} was {len(payload)} bytes, over the limit of {EVENT_BYTES_MAX}", lost=1,
    )  # fmt: skip
    event = Event(
        id=event_id(event.id, "too_large"), time=event.time, origin=event.origin,
        agent=AGENT_VERSION, body=gap,
    )  # fmt: skip
    return event, encode(event)
