"""What was read from the engine and is not on the bus yet: bounded memory between two speeds.

A stream that is not read stalls the engine for 100 ms an event and then loses events without a
word (moby, `daemon/events`). So a thread does nothing but read into here, whatever the bus does,
and what does not fit is counted: it becomes a gap in its place.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque

import msgspec

from sematext_agent.docker_collector.engine import EngineError, Snapshot, Stream

EVENTS_MAX = 50_000
BYTES_MAX = 14 * 1024 * 1024
"""At the limits what comes next is counted as lost, until half of the memory is free again."""
_TOGETHER_MAX = 128
LINE_BYTES_MAX = 1024 * 1024
"""A longer message is discarded and counted as lost."""


class Lines(msgspec.Struct, frozen=True):
    """Messages of the stream, one a line, in one or several pieces."""

    pieces: list[bytes]


class Ring(msgspec.Struct, frozen=True):
    """What the engine remembered at a moment: after connecting, and then as an audit."""

    lines: list[bytes]
    moment: int
    """When it was asked for, in nanoseconds since the epoch."""
    snapshot: Snapshot | None = None
    """What existed then, where it was listed: after connecting."""


class Lost(msgspec.Struct, frozen=True):
    """Messages that did not fit."""

    count: int


Item = Lines | Ring | Snapshot | Lost


class Backlog:
    """Items in order. Any thread puts, the event loop takes."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._lock = threading.Lock()
        self._items: deque[tuple[Item, int, int]] = deque()
        self._events = 0
        self._bytes = 0
        self._lost = 0
        self._closed = False
        self._taker_waits = False
        self._ready = asyncio.Event()

    def __len__(self) -> int:
        """How many events are held."""
        return self._events

    def put(self, item: Item, events: int, size: int) -> bool:
        """Adds an item of `size` bytes; or counts its events as lost, and returns False."""
        with self._lock:
            portion = 2 if self._lost else 1
            if (
                self._events + events > EVENTS_MAX // portion
                or self._bytes + size > BYTES_MAX // portion
            ):
                self._lost += events
                return False
            if self._lost:
                self._items.append((Lost(self._lost), 0, 0))
                self._lost = 0
            self._append(item, events, size)
            self._events += events
            self._bytes += size
            wake, self._taker_waits = self._taker_waits, False
        if wake:
            self._loop.call_soon_threadsafe(self._ready.set)
        return True

    def _append(self, item: Item, events: int, size: int) -> None:
        if self._items and isinstance(item, Lines):
            last, events_before, size_before = self._items[-1]
            # Taken together while the taker is behind, which is when it matters.
            if isinstance(last, Lines) and events_before + events <= _TOGETHER_MAX:
                last.pieces.extend(item.pieces)
                self._items[-1] = (last, events_before + events, size_before + size)
                return
        self._items.append((item, events, size))

    def lose(self, events: int) -> None:
        """Counts events that cannot be kept at all."""
        with self._lock:
            self._lost += events

    async def take(self, seconds: float | None) -> Item | None:
        """The next item; None once the backlog is closed and empty.

        Raises:
            TimeoutError: there was none for `seconds`.
        """
        while True:
            with self._lock:
                if self._items:
                    item, events, size = self._items.popleft()
                    self._events -= events
                    self._bytes -= size
                    return item
                if self._lost:
                    lost, self._lost = self._lost, 0
                    return Lost(lost)
                if self._closed:
                    return None
                self._ready.clear()
                self._taker_waits = True
            async with asyncio.timeout(seconds):
                await self._ready.wait()

    def close(self) -> None:
        """Nothing more will be put. To be called by the event loop."""
        self._closed = True
        self._ready.set()


class Reader(threading.Thread):
    """Reads a stream into the backlog until it ends, and does nothing else."""

    def __init__(self, stream: Stream, backlog: Backlog, attention: asyncio.Event) -> None:
        super().__init__(name="engine stream", daemon=True)
        self._stream = stream
        self._backlog = backlog
        self._loop = asyncio.get_running_loop()
        self._attention = attention
        self.ended = False
        self.why = "the engine ended the stream"

    def stop(self) -> None:
        """Ends the stream; `run` returns once it has put what it read. From any thread."""
        self._stream.end()

    def run(self) -> None:
        """Reads to the end; `attention` is set when it has come."""
        try:
            self._read()
        except EngineError as error:
            self.why = str(error)
        finally:
            self._stream.release()
            self.ended = True
            self._loop.call_soon_threadsafe(self._attention.set)

    def _read(self) -> None:
        tail = b""
        skipping = False
        while piece := self._stream.read():
            lines, newline, tail = (tail + piece).rpartition(b"\n")
            if newline and skipping:
                # The end of a message that was too long.
                _, _, lines = lines.partition(b"\n")
                skipping = False
            if lines:
                self._backlog.put(Lines([lines]), lines.count(b"\n") + 1, len(lines))
            if skipping or len(tail) > LINE_BYTES_MAX:
                if not skipping:
                    self._backlog.lose(1)
                tail, skipping = b"", True
