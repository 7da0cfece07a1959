"""Trying again: exponential backoff with full jitter, and a loop that uses it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable
from typing import TypeVar

T = TypeVar("T")

Uniform = Callable[[float, float], float]
"""A source of random numbers between two bounds, as `random.Random.uniform`."""


class Backoff:
    """A pause before the next try: random between 0 and a bound that doubles with each failure.

    Full jitter keeps many clients that failed together from coming back together. See "Exponential
    Backoff And Jitter", AWS Architecture Blog, 2015.
    """

    def __init__(
        self,
        first_seconds: float = 0.5,
        seconds_max: float = 30.0,
        uniform: Uniform | None = None,
    ) -> None:
        """Begin with a bound of `first_seconds`; `uniform` replaces `random.uniform`."""
        self._first_seconds = first_seconds
        self._seconds_max = seconds_max
        self._uniform = uniform
        self.failures = 0
        """Failures since the last `reset`."""

    def draw_delay_seconds(self) -> float:
        """Count one more failure and return how many seconds to pause before the next try."""
        # The exponent is bounded, because 2.0**1024 overflows after a long outage.
        ceiling = min(self._seconds_max, self._first_seconds * 2.0 ** min(self.failures, 32))
        self.failures += 1
        uniform = self._uniform or random.uniform
        return uniform(0, ceiling)

    def reset(self) -> None:
        """Forget the failures, after a success."""
        self.failures = 0


async def retry(
    attempt: Callable[[], Awaitable[T]],
    errors: type[Exception] | tuple[type[Exception], ...],
    backoff: Backoff,
    on_failure: Callable[[Exception], None] = lambda error: None,
) -> T:
    """Return the result of `attempt`, called again with `backoff` while it raises `errors`.

    `on_failure` is called with every such error, before the pause.

    Raises:
        Exception: whatever else `attempt` raises.
    """
    while True:
        try:
            return await attempt()
        except errors as error:
            on_failure(error)
            await asyncio.sleep(backoff.draw_delay_seconds())
