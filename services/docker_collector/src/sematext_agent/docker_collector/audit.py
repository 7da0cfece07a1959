"""Audit: a comparison of the events that the engine remembers with the messages that were read."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator

from sematext_agent.docker_collector.buffer import EngineHistory
from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.decoder import LineDecoder
from sematext_agent.docker_collector.deduplicator import MessageDeduplicator
from sematext_agent.docker_collector.engine import HISTORY_EVENTS, Snapshot
from sematext_agent.docker_collector.gaps import GapReporter
from sematext_agent.docker_collector.lookup import ObjectLookup
from sematext_agent.docker_collector.message import EngineMessage
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.events import NS_PER_SECOND, Event
from sematext_agent.shared.health import Health

log = logging.getLogger(__name__)

_STREAM_DELAY_NS_MAX = 2 * NS_PER_SECOND
"""Time that a message may take through the stream; then an audit counts it as missed."""


class HistoryAudit:
    """The baseline of a first run, gaps, and the messages that a stream dropped."""

    def __init__(
        self,
        started_ns: int,
        state: EngineState,
        connection: EngineConnection,
        decoder: LineDecoder,
        deduplicator: MessageDeduplicator,
        lookup: ObjectLookup,
        gaps: GapReporter,
        health: Health,
    ) -> None:
        """Build the audit of one engine.

        Args:
            started_ns: the beginning of a first run, in nanoseconds since the epoch.
            state: the messages read so far.
            connection: the stream, to be opened again where it drops messages.
            decoder: for the lines of a history.
            deduplicator: takes the messages of a history on along the path.
            lookup: learns from the snapshot of a history.
            gaps: makes the events of gaps.
            health: counts missed messages.
        """
        self._started_ns = started_ns
        self._state = state
        self._connection = connection
        self._decoder = decoder
        self._deduplicator = deduplicator
        self._lookup = lookup
        self._gaps = gaps
        self._missed = health.add_counter("messages_missed", "Messages only an audit brought.")

    async def process(self, history: EngineHistory) -> AsyncIterator[Event | None]:
        """Yield a gap that `history` shows, then the events of the messages that were not read."""
        self._connection.mark_history_taken()
        messages = self._decoder.decode_lines(history.lines)
        is_unread = [self._deduplicator.is_new(message) for message in messages]
        if history.snapshot is not None:
            self._lookup.add_snapshot(history.snapshot)
        if self._state.is_new:
            self._record_baseline(history.snapshot, messages)
        else:
            if (gap := self._find_gap(messages, is_unread)) is not None:
                yield gap
            if history.snapshot is None:
                self._count_missed(history.requested_ns, messages, is_unread)
            elif self._state.unreconciled:
                self._connection.request_snapshot()
        async for event in self._deduplicator.process(messages):
            yield event
        yield None

    def _record_baseline(self, snapshot: Snapshot | None, messages: list[EngineMessage]) -> None:
        """Record everything from before a first run, so that it becomes no event."""
        for message in messages:
            if message.time_ns < self._started_ns:
                self._deduplicator.record(message)
        if snapshot is not None:
            self._state.replace_containers(snapshot)
        self._state.latest_ns = max(self._state.latest_ns, self._started_ns)
        self._state.is_new = False

    def _find_gap(self, messages: list[EngineMessage], is_unread: list[bool]) -> Event | None:
        """Return the gap before a history in which the message read last is missing."""
        is_full = len(messages) >= HISTORY_EVENTS
        first_ns = messages[0].time_ns if messages else None
        if all(is_unread) and self._state.has_read:
            self._state.forget_messages()
            if not is_full:
                detail = "the engine has restarted and forgotten"
                return self._gaps.report("engine_restarted", detail, until_ns=first_ns)
        elif not (is_full and is_unread[0]):
            return None
        detail = f"more happened than the {HISTORY_EVENTS} events that the engine remembers"
        return self._gaps.report("overflow", detail, until_ns=first_ns)

    def _count_missed(
        self, requested_ns: int, messages: list[EngineMessage], is_unread: list[bool]
    ) -> None:
        """Count the messages that the stream should have brought, and replace such a stream."""
        missed = sum(
            unread and message.time_ns < requested_ns - _STREAM_DELAY_NS_MAX
            for message, unread in zip(messages, is_unread, strict=True)
        )
        if missed:
            log.warning("opening another stream: this one did not bring %d events", missed)
            self._missed.inc(missed)
            self._connection.reopen_stream()
