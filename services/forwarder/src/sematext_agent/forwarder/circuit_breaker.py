"""The circuit breaker: stop sending after repeated failures, probe, resume."""

from __future__ import annotations

import enum

from sematext_agent.shared.retry import Backoff

FAILURES_MAX = 5
"""Failures in a row after which the destination counts as unavailable."""
REFUSALS_MAX = 10
"""Refusals in a row after which the destination is suspected rather than the events."""


class Circuit(enum.Enum):
    """The states of the breaker."""

    CLOSED = "closed"
    """Everything is sent."""
    OPEN = "open"
    """Nothing is sent until the backoff is over."""
    HALF_OPEN = "half-open"
    """One event at a time is sent as a probe."""


class CircuitBreaker:
    """The state of the circuit, decided by the outcomes of the sends."""

    def __init__(self, backoff: Backoff) -> None:
        """Begin closed; `backoff` draws the pauses between two probes."""
        self._backoff = backoff
        self._failures = 0
        self._refusals = 0
        self.state = Circuit.CLOSED

    @property
    def is_closed(self) -> bool:
        """True while everything is sent."""
        return self.state is Circuit.CLOSED

    def record_success(self) -> None:
        """Close the circuit."""
        self._failures = self._refusals = 0
        if self.state is not Circuit.CLOSED:
            self.state = Circuit.CLOSED
            self._backoff.reset()

    def record_failure(self) -> bool:
        """Count a failure; return whether the circuit has to open."""
        self._failures += 1
        return self._failures >= FAILURES_MAX or not self.is_closed

    def record_refusal(self) -> bool:
        """Count a refused document; return whether the circuit has to open."""
        # The destination answers, so it is available; it may still take nothing at all.
        self._failures = 0
        self._refusals += 1
        return self._refusals >= REFUSALS_MAX

    def open(self, in_flight: int) -> float | None:
        """Open the circuit; return the seconds until a probe, or None where a pause runs already.

        Sends that were in flight when it opened fail one by one, and count as one failure together:
        `in_flight` of them have no answer yet. After the last of them only a probe can fail.
        """
        if self.is_closed or not in_flight:
            self.state = Circuit.OPEN
            return self._backoff.draw_delay_seconds()
        return None

    def allow_probe(self) -> None:
        """Let one event at a time be sent, after the backoff."""
        if self.state is Circuit.OPEN:
            self.state = Circuit.HALF_OPEN
