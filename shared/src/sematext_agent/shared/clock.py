"""The clocks of a process, handed to whoever measures time so that a test can move it."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Three ways to read the time; none of them waits."""

    def monotonic(self) -> float:
        """Return seconds that never go back and stand still while the machine is suspended."""

    def boottime(self) -> float:
        """Return seconds that never go back and count the machine's suspension."""

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch; an operator or NTP may step it in either way."""


class SystemClock:
    """The clocks of the operating system."""

    monotonic = staticmethod(time.monotonic)
    wall_ns = staticmethod(time.time_ns)

    def boottime(self) -> float:
        """Return CLOCK_BOOTTIME in seconds, or `monotonic` where there is none (macOS)."""
        if hasattr(time, "CLOCK_BOOTTIME"):
            return time.clock_gettime(time.CLOCK_BOOTTIME)
        return time.monotonic()


SYSTEM_CLOCK: Clock = SystemClock()
