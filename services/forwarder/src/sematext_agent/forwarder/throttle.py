"""The throttle: a time before which nothing is sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sematext_agent.shared.clock import Clock


class Throttle:
    """A pause of the whole flow, asked for by `Retry-After` or by the circuit breaker."""

    def __init__(self, clock: Clock, on_resume: Callable[[], None]) -> None:
        """Call `on_resume` at the end of each pause."""
        self._clock = clock
        self._on_resume = on_resume
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self.until = 0.0
        """Monotonic seconds; 0 while there is no pause."""

    @property
    def is_active(self) -> bool:
        """True while nothing may be sent."""
        return bool(self.until) and self._clock.monotonic() < self.until

    def pause(self, seconds: float) -> None:
        """Pause for `seconds`; a longer pause that is under way stays."""
        until = self._clock.monotonic() + seconds
        if until > self.until:
            self.until = until
            self.stop()
            self._timer = self._loop.call_later(seconds, self._resume)

    def stop(self) -> None:
        """Cancel the timer: `on_resume` is not called any more."""
        if self._timer is not None:
            self._timer.cancel()

    def _resume(self) -> None:
        self._timer = None
        self.until = 0.0
        self._on_resume()
