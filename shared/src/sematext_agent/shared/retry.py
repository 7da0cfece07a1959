"""How long to wait before trying again: full jitter under an exponential cap."""

from __future__ import annotations

import random


class Backoff:
    """Waits that grow, are spread at random, and start anew after a success.

    Full jitter keeps many clients that failed together from coming back together. See "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(self, first_seconds: float = 0.5, seconds_max: float = 30.0) -> None:
        self._first_seconds = first_seconds
        self._seconds_max = seconds_max
        self.failures = 0

    def draw_delay_seconds(self) -> float:
        """Counts one more failure and says how many seconds to wait before the next try."""
        # The exponent is bounded, because 2.0**1024 overflows after a long outage.
        ceiling = min(self._seconds_max, self._first_seconds * 2.0 ** min(self.failures, 32))
        self.failures += 1
        return random.uniform(0, ceiling)  # noqa: S311 - spreads load, guards no secret

    def reset(self) -> None:
        """Forgets the failures, after a success."""
        self.failures = 0
