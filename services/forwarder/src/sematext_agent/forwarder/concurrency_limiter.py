"""The concurrency limiter: how many sends may be in flight at once.

The limit grows by one after each full round of successes and shrinks by a tenth when the
destination is overloaded (additive increase, multiplicative decrease).
"""

from __future__ import annotations

IN_FLIGHT_MAX = 128
_IN_FLIGHT_FIRST = 16
_SHRINK_FACTOR = 0.9


class ConcurrencyLimiter:
    """A limit between 1 and `IN_FLIGHT_MAX`, and the sends that count against it."""

    def __init__(self) -> None:
        """Begin with nothing in flight."""
        self.limit = float(_IN_FLIGHT_FIRST)
        """Sends allowed in flight; it grows by fractions, and whole ones count."""
        self.in_flight = 0
        self._shrunk_at = 0.0

    @property
    def is_full(self) -> bool:
        """True while no more may be sent."""
        return self.in_flight >= int(self.limit)

    def begin(self) -> None:
        """Count one more send."""
        self.in_flight += 1

    def end(self) -> None:
        """Count one send less, before `record_success` or `record_overload`."""
        self.in_flight -= 1

    def record_success(self) -> None:
        """Grow after a success, where the limit was reached: else more would be of no use."""
        if self.in_flight + 1 >= int(self.limit):
            self.limit = min(IN_FLIGHT_MAX, self.limit + 1 / self.limit)

    def record_overload(self, began_at: float, now: float) -> None:
        """Shrink after an overload of a send that began at `began_at` (monotonic seconds).

        Sends that were in flight together are signs of one overload and shrink the limit once.
        """
        if began_at >= self._shrunk_at:
            self.limit = max(1.0, self.limit * _SHRINK_FACTOR)
            self._shrunk_at = now
