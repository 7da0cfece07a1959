"""Trimming of the stream of events.

The stream refuses new events when it is full, so only events that are not delivered may fill it.
"""

from __future__ import annotations

import logging
from collections import deque

from sematext_agent.forwarder import stream_configs
from sematext_agent.forwarder.consumers import Info
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.subjects import EVENTS_STREAM

log = logging.getLogger(__name__)

HISTORY_EVENTS_MIN = 10_000
"""The last events, delivered or not, that stay for taps while the stream has space."""


class Trimmer:
    """The delivered prefix of the stream, and what of it is dropped."""

    def __init__(self, bus: Bus, domain: str, clock: Clock) -> None:
        """Begin with a stream of which nothing is known."""
        self._bus = bus
        self._domain = domain
        self._clock = clock
        self._created = ""
        """The creation time of the stream: a new stream counts its events from 1 again."""
        self._history: deque[tuple[float, int]] = deque()
        """Pairs of monotonic seconds and the first sequence that was not delivered then."""
        self.first_undelivered = 1
        """The sequence of the first event that is not delivered."""
        self._last_sequence = 0

    def resume_sequence(self, stream: Info) -> int:
        """Return the sequence at which a new consumer of `stream` begins."""
        self._recognize(stream)
        return self.first_undelivered

    async def trim(self, stream: Info, consumer: Info) -> None:
        """Drop delivered events: those before the duplicate window, or all where space is short.

        JetStream rebuilds its duplicate window from the stored messages after a restart, so these
        have to be kept for as long.

        Raises:
            BusError: the bus does not answer; the next call does the same.
        """
        self._recognize(stream)
        state = stream["state"]
        self.first_undelivered = consumer["ack_floor"]["stream_seq"] + 1
        now = self._clock.monotonic()
        self._history.append((now, self.first_undelivered))
        first_kept = state["first_seq"]
        window_start = now - stream_configs.DUPLICATE_WINDOW_SECONDS
        while self._history and self._history[0][0] < window_start:
            first_kept = self._history.popleft()[1]
        first_kept = min(first_kept, state["last_seq"] + 1 - HISTORY_EVENTS_MIN)
        if state["bytes"] > stream["config"]["max_bytes"] // 2:
            first_kept = self.first_undelivered
        # The history is about other events where the broker's store was put back to a copy.
        first_kept = min(first_kept, self.first_undelivered)
        if first_kept > state["first_seq"]:
            request = {"seq": first_kept}
            await self._bus.request_api(f"STREAM.PURGE.{EVENTS_STREAM}", request, self._domain)
            log.debug("trimmed the stream up to sequence %d", first_kept)

    def forget(self) -> None:
        """Forget the delivered prefix, because the stream gives its sequences out anew."""
        self.first_undelivered = 1
        self._history.clear()

    def _recognize(self, stream: Info) -> None:
        """Forget the delivered prefix where `stream` was created anew or put back to a copy."""
        last_sequence = stream["state"]["last_seq"]
        if stream["created"] != self._created or last_sequence < self._last_sequence:
            self.forget()
        self._created, self._last_sequence = stream["created"], last_sequence
