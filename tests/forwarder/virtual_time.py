"""A clock that stands still until a test moves it, with the timers of an event loop."""

from __future__ import annotations

from collections.abc import Callable


class Timer:
    """The handle of one timer of a `VirtualClock`."""

    def __init__(self, clock: VirtualClock, when: float, callback: Callable[[], None]) -> None:
        self.when = when
        self.callback = callback
        self._clock = clock

    def cancel(self) -> None:
        """Remove the timer, if it has not fired."""
        if self in self._clock.timers:
            self._clock.timers.remove(self)


class VirtualClock:
    """Stands for the clocks of a process and for the timers of its event loop."""

    def __init__(self) -> None:
        self.now = 1000.0
        """Monotonic seconds."""
        self.timers: list[Timer] = []

    def monotonic(self) -> float:
        return self.now

    def boottime(self) -> float:
        return self.now

    def wall_ns(self) -> int:
        return int(self.now * 1e9)

    def call_later(self, seconds: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self, self.now + seconds, callback)
        self.timers.append(timer)
        return timer

    def advance(self, seconds: float) -> None:
        """Move the time, and fire every timer that falls due, in order."""
        end = self.now + seconds
        while self.timers:
            timer = min(self.timers, key=lambda timer: timer.when)
            if timer.when > end:
                break
            timer.cancel()
            self.now = timer.when
            timer.callback()
        self.now = end
