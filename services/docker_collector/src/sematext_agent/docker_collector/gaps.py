"""Gaps: events for spans of the engine's stream that were not read."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sematext_agent.docker_collector.buffer import LostEvents
from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import Event, format_rfc3339
from sematext_agent.shared.gaps import gap_event


class GapReporter:
    """Gap events, each of which has a snapshot follow that shows what changed meanwhile."""

    def __init__(
        self, host: str, origin: str, state: EngineState, connection: EngineConnection, clock: Clock
    ) -> None:
        self._host = host
        self._origin = origin
        self._state = state
        self._connection = connection
        self._clock = clock

    async def process(self, lost: LostEvents) -> AsyncIterator[Event]:
        """Yield the event for events that did not fit into the buffer."""
        detail = "more happened than could be held in memory"
        yield self.report("overflow", detail, lost=lost.count)

    def report(
        self, reason: str, detail: str, *, lost: int | None = None, until_ns: int | None = None
    ) -> Event:
        """Return the event of a gap from the latest message to `until_ns`, or to now."""
        self._state.unreconciled = True
        self._connection.request_snapshot()
        until_ns = self._clock.wall_ns() if until_ns is None else until_ns
        since_ns = min(self._state.latest_ns, until_ns)
        return gap_event(
            *("docker", self._host, "gap", reason, since_ns),
            source="docker",
            origin=self._origin,
            reason=reason,
            since=format_rfc3339(since_ns),
            until=format_rfc3339(until_ns),
            detail=detail,
            lost=lost,
        )
