"""Deduplicator: the second stage, which records each message and drops those read before.

The stream repeats the engine's history at every connection, and an audit reads it again.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sematext_agent.docker_collector.lookup import ObjectLookup
from sematext_agent.docker_collector.message import EngineMessage, identify
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.events import Event


class MessageDeduplicator:
    """The stage that hands every new message on to the look-up."""

    def __init__(self, host: str, state: EngineState, lookup: ObjectLookup) -> None:
        self._host = host
        self._state = state
        self._lookup = lookup

    async def process(self, messages: list[EngineMessage]) -> AsyncIterator[Event | None]:
        """Yield the event of each message, and None for a message that becomes no event."""
        inspections = self._lookup.inspections
        inspections.start(messages, self.is_new)
        for message in messages:
            identifier = identify(message, self._host)
            is_new = self._state.record_message(identifier, message)
            # After a restart a duplicate brings back which execs are health checks.
            if is_new or (message.type == "container" and message.verb == "exec_create"):
                yield await self._lookup.process(message, identifier, is_new)
            else:
                yield None
        inspections.cancel()

    def record(self, message: EngineMessage) -> None:
        """Record a message that becomes no event, because it is from before the first run."""
        self._state.record_message(identify(message, self._host), message)

    def is_new(self, message: EngineMessage) -> bool:
        """Return whether a message was not read before."""
        return not self._state.has_message(identify(message, self._host))
