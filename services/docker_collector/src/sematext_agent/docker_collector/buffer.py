"""The buffer between the engine and the bus: bounded memory between two speeds.

A stream that is not read stalls the engine for 100 ms an event and then loses events silently
(moby, `daemon/events`). So a thread only reads into this buffer, however slow the bus is, and
events that do not fit are counted: they become a gap in their place.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import msgspec

from sematext_agent.docker_collector.engine import Snapshot

EVENTS_MAX = 50_000
BYTES_MAX = 14 * 1024 * 1024
"""At the bounds every event counts as lost, until half of the buffer is free again."""
_BATCH_EVENTS_MAX = 128
_BATCH_BYTES_MAX = 1024 * 1024
"""At the bounds of a batch the next one begins: a batch is decoded as a whole."""


class EventLines(msgspec.Struct, frozen=True):
    """A batch of the stream's messages, one a line, in one or several pieces."""

    pieces: list[bytes]


class EngineHistory(msgspec.Struct, frozen=True):
    """The events that the engine remembered at one moment: after connecting, then as an audit."""

    lines: list[bytes]
    requested_ns: int
    """The time of the request, in nanoseconds since the epoch."""
    snapshot: Snapshot | None = None
    """After connecting: the containers and images of that moment, where they could be listed."""


class LostEvents(msgspec.Struct, frozen=True):
    """Events that did not fit into the buffer."""

    count: int


BufferItem = EventLines | EngineHistory | Snapshot | LostEvents


class EngineBuffer:
    """Items in order. Any thread puts, the event loop takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: deque[tuple[BufferItem, int, int]] = deque()
        self._events = 0
        self._bytes = 0
        self._lost = 0
        self._is_closed = False
        self._taker_waits = False
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of events in the buffer."""
        return self._events

    def put(self, item: BufferItem, events: int, size_bytes: int) -> bool:
        """Add an item with `events` events; return False where they are counted as lost instead."""
        with self._lock:
            divisor = 2 if self._lost else 1
            if (
                self._events + events > EVENTS_MAX // divisor
                or self._bytes + size_bytes > BYTES_MAX // divisor
            ):
                self._lost += events
                return False
            if self._lost:
                self._items.append((LostEvents(self._lost), 0, 0))
                self._lost = 0
            self._append(item, events, size_bytes)
            self._events += events
            self._bytes += size_bytes
            wakes, self._taker_waits = self._taker_waits, False
        if wakes:
            self._loop.call_soon_threadsafe(self._ready.set)
        return True

    def _append(self, item: BufferItem, events: int, size_bytes: int) -> None:
        if self._items and isinstance(item, EventLines):
            last, last_events, last_bytes = self._items[-1]
            # Joined while the taker is behind, which is when it saves work.
            if (
                isinstance(last, EventLines)
                and last_events + events <= _BATCH_EVENTS_MAX
                and last_bytes + size_bytes <= _BATCH_BYTES_MAX
            ):
                last.pieces.extend(item.pieces)
                self._items[-1] = (last, last_events + events, last_bytes + size_bytes)
                return
        self._items.append((item, events, size_bytes))

    def count_lost(self, events: int) -> None:
        """Count events that cannot be kept at all."""
        with self._lock:
            self._lost += events

    async def take(self, seconds: float | None) -> BufferItem | None:
        """Return the next item; None once the buffer is closed and empty.

        Raises:
            TimeoutError: there was none for `seconds`.
        """
        while True:
            with self._lock:
                if self._items:
                    item, events, size_bytes = self._items.popleft()
                    self._events -= events
                    self._bytes -= size_bytes
                    return item
                if self._lost:
                    lost, self._lost = self._lost, 0
                    return LostEvents(lost)
                if self._is_closed:
                    return None
                self._ready.clear()
                self._taker_waits = True
            async with asyncio.timeout(seconds):
                await self._ready.wait()

    def close(self) -> None:
        """End the buffer, once nothing more will be put; only for the event loop."""
        self._is_closed = True
        self._ready.set()
