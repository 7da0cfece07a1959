"""Dead letters that JetStream drops for newer ones, because the stream DEAD is full.

They are counted and reported as a gap, so that the bound is never silent.
"""

from __future__ import annotations

import logging

from sematext_agent.forwarder.consumers import Info
from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import encode, format_rfc3339
from sematext_agent.shared.gaps import gap_event
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import FORWARDER_CONSUMER, subject_of

log = logging.getLogger(__name__)

REPORT_SECONDS_MIN = 60.0
"""Pause between two gaps about dead letters."""
_FULL = 0.9
"""The share of its bytes from which the stream counts as full."""


class DroppedDeadLetters:
    """The dead letters that were dropped and not reported yet."""

    def __init__(self, bus: Bus, health: Health, clock: Clock) -> None:
        """Begin with none."""
        self._bus = bus
        self._health = health
        self._clock = clock
        self._first_sequence = 0  # of the oldest dead letter
        self._lost = 0
        self._since_ns = 0  # nanoseconds since the epoch from which they are counted
        self._report_at = 0.0  # monotonic seconds
        self._dropped = health.add_counter(
            "dead_letters_dropped", "Dead letters dropped for newer ones."
        )

    async def inspect(self, dead: Info) -> None:
        """Count and report what was dropped, by `dead`, the information about the stream DEAD.

        Raises:
            BusError: the bus does not answer; the next call reports it.
        """
        self._count(dead)
        now = self._clock.monotonic()
        if self._lost and now >= self._report_at and await self._report():
            self._report_at = now + REPORT_SECONDS_MIN

    def _count(self, dead: Info) -> None:
        state, bytes_max = dead["state"], dead["config"]["max_bytes"]
        before, self._first_sequence = self._first_sequence, state["first_seq"]
        # Only a full stream drops; otherwise somebody has removed or replayed them.
        if before and self._first_sequence > before and state["bytes"] > _FULL * bytes_max:
            lost = self._first_sequence - before
            self._since_ns = self._since_ns or self._clock.wall_ns()
            self._lost += lost
            self._dropped.inc(lost)

    async def _report(self) -> bool:
        """Publish the gap; return whether it is safe."""
        detail = (
            "the oldest dead letters went because the stream DEAD is full; see what is refused "
            "with `agentctl dead list`, or set DEAD_BYTES_MAX higher"
        )
        gap = gap_event(
            # The oldest dead letter now: several forwarders would report the same gap.
            FORWARDER_CONSUMER,
            "dead letters",
            self._first_sequence,
            source=FORWARDER_CONSUMER,
            origin=self._health.origin,
            reason="dead_letters_full",
            since=format_rfc3339(self._since_ns),
            until=format_rfc3339(self._clock.wall_ns()),
            detail=detail,
            lost=self._lost,
        )
        try:
            await self._bus.publish(subject_of(gap), encode(gap), gap.id)
        except BusError as error:
            log.debug("a gap is not stored yet: %s", error)
            return False
        self._health.record_error(f"{self._lost} dead letters are gone: {detail}")
        self._lost = self._since_ns = 0
        return True
