"""The reader: a thread that moves the engine's stream into the buffer, and does nothing else."""

from __future__ import annotations

import asyncio
import threading

from sematext_agent.docker_collector.buffer import EngineBuffer, EventLines
from sematext_agent.docker_collector.engine import EngineError, EventStream

LINE_BYTES_MAX = 1024 * 1024
"""Bound of a message; a longer one is discarded and counted as lost."""


class EventStreamReader(threading.Thread):
    """A thread that reads one stream into the buffer until the stream ends."""

    def __init__(self, stream: EventStream, buffer: EngineBuffer, wake: asyncio.Event) -> None:
        """Prepare the thread; `wake` is set on the event loop when the stream has ended."""
        super().__init__(name="engine stream", daemon=True)
        self._stream = stream
        self._buffer = buffer
        self._loop = asyncio.get_running_loop()
        self._wake = wake
        self.has_ended = False
        self.end_reason = "the engine ended the stream"

    def stop(self) -> None:
        """End the stream, from any thread; `run` returns once everything read is in the buffer."""
        self._stream.end()

    def run(self) -> None:
        """Read to the end of the stream, then set `wake`."""
        try:
            self._read()
        except EngineError as error:
            self.end_reason = str(error)
        finally:
            self._stream.release()
            self.has_ended = True
            self._loop.call_soon_threadsafe(self._wake.set)

    def _read(self) -> None:
        tail = b""
        is_skipping = False
        while piece := self._stream.read():
            lines, newline, tail = (tail + piece).rpartition(b"\n")
            if newline and is_skipping:
                # The end of a message that was too long.
                _, _, lines = lines.partition(b"\n")
                is_skipping = False
            if lines:
                self._buffer.put(EventLines([lines]), lines.count(b"\n") + 1, len(lines))
            if is_skipping or len(tail) > LINE_BYTES_MAX:
                if not is_skipping:
                    self._buffer.count_lost(1)
                tail, is_skipping = b"", True
