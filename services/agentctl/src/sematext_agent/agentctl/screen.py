"""The terminal of `agentctl up`: lines of many services, written by a thread of its own.

A paused terminal, or a pipe that nobody reads, blocks its writer. That must block neither a
service, whose log is read here, nor the events. So lines wait in a bounded queue; lines that find
it full are counted instead.
"""

from __future__ import annotations

import os
import queue
import re
import threading
from typing import TextIO

from sematext_agent.shared.logs import escape
from sematext_agent.shared.summary import format_local_time

_LINES_MAX = 10_000
_SERVICE_LOG = re.compile(r"(\S+Z) ([A-Z]+) \w+: (.*)")


class Screen:
    """An output that takes lines in order, and never blocks the caller."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._lines: queue.Queue[str | None] = queue.Queue(_LINES_MAX)
        self._dropped_lines = 0
        self._thread = threading.Thread(target=self._write, name="screen", daemon=True)
        self._thread.start()

    def show(self, line: str) -> None:
        """Show one line, with characters that are not printable escaped."""
        try:
            self._lines.put_nowait(escape(line))
        except queue.Full:
            self._dropped_lines += 1

    def show_log_line(self, service: str, line: str) -> None:
        """Show a line that a service printed.

        A line of its log gets the local time, and loses the service's name and `INFO`.
        """
        log_line = _SERVICE_LOG.fullmatch(line)
        if log_line is None:
            self.show(f"{'':12} {service:<10} | {line}")
        else:
            time, level, text = log_line.groups()
            level = "" if level == "INFO" else f"{level} "
            self.show(f"{format_local_time(time)} {service:<10} | {level}{text}")

    def close(self) -> None:
        """Show the lines that wait, for at most two seconds."""
        try:
            self._lines.put(None, timeout=1)
        except queue.Full:
            return
        self._thread.join(timeout=1)

    def _write(self) -> None:
        while (line := self._lines.get()) is not None:
            try:
                if self._dropped_lines and self._lines.qsize() < _LINES_MAX // 2:
                    dropped_lines, self._dropped_lines = self._dropped_lines, 0
                    self._out.write(f"({dropped_lines} lines were left out here)\n")
                self._out.write(line + "\n")
                self._out.flush()
            except OSError:
                # Nobody reads any more. The agent goes on, and the rest goes to the null device.
                os.dup2(os.open(os.devnull, os.O_WRONLY), self._out.fileno())
