"""The terminal of `agentctl up`: lines from many parts, written by a thread of their own.

A terminal that is paused, or a pipe that nobody reads, blocks whoever writes to it. That must stop
neither a part, whose log is read here, nor the events. So lines wait in a bounded queue, and those
that find it full are counted instead.
"""

from __future__ import annotations

import os
import queue
import threading
from typing import TextIO

from sematext_agent.shared.logs import escape

_LINES_MAX = 10_000


class Screen:
    """Writes lines to `out` in order, without ever making the caller wait."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_MAX)
        self._left_out = 0
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def show(self, line: str) -> None:
        """Shows one line, with whatever in it is not printable escaped."""
        try:
            self._lines.put_nowait(escape(line))
        except queue.Full:
            self._left_out += 1

    def close(self) -> None:
        """Shows what is left, if that takes less than a second."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self._left_out and self._lines.qsize() < _LINES_MAX // 2:
                    left_out, self._left_out = self._left_out, 0
                    self._out.write(f"({left_out} lines were left out here)\n")
                self._out.write(line + "\n")
                self._out.flush()
            except OSError:
                # Nobody reads any more. The agent goes on; the rest goes nowhere.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
