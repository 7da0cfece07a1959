"""The pipeline: which stages an item of the buffer passes on its way to events.

    EventLines ─────> decode ─> deduplicate ─> look up ─> filter ─> translate ─> event
    EngineHistory ──> audit ─────┘ (what the stream did not bring)
    LostEvents ─────> gap ────────────────────────────────────────────────────> event
    Snapshot ───────> reconcile ──────────────────────────────────────────────> events

Each stage hands on to the next. Inspections run beside this path and feed the look-up.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sematext_agent.docker_collector.audit import HistoryAudit
from sematext_agent.docker_collector.buffer import (
    BufferItem,
    EngineHistory,
    EventLines,
    LostEvents,
)
from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.decoder import LineDecoder
from sematext_agent.docker_collector.deduplicator import MessageDeduplicator
from sematext_agent.docker_collector.engine import Snapshot
from sematext_agent.docker_collector.filters import EventFilter
from sematext_agent.docker_collector.gaps import GapReporter
from sematext_agent.docker_collector.lookup import ObjectLookup
from sematext_agent.docker_collector.reconciler import SnapshotReconciler
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.events import Event
from sematext_agent.shared.health import Health


class EventPipeline:
    """The stages from an item of the buffer to events, in order."""

    def __init__(
        self,
        settings: DockerSettings,
        host: str,
        state: EngineState,
        connection: EngineConnection,
        health: Health,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Build the stages; `host` is this host's identity in event ids."""
        origin = settings.hostname
        filtered = health.add_counter(
            "messages_filtered", "Messages that became no event.", "reason"
        )

        def count_filtered(reason: str) -> None:
            filtered.labels(reason).inc()

        event_filter = EventFilter(settings, count_filtered)
        self._state = state
        self._lookup = ObjectLookup(state, connection, event_filter)
        deduplicator = MessageDeduplicator(host, state, self._lookup)
        self._decoder = LineDecoder(deduplicator, count_filtered)
        self._gaps = GapReporter(host, origin, state, connection, clock)
        self._reconciler = SnapshotReconciler(host, origin, state, self._lookup, event_filter)
        self._audit = HistoryAudit(
            clock.wall_ns(),
            state,
            connection,
            self._decoder,
            deduplicator,
            self._lookup,
            self._gaps,
            health,
        )

    def process(self, item: BufferItem) -> AsyncIterator[Event | None]:
        """Yield the events of an item, and None for progress without an event."""
        match item:
            case EventLines():
                return self._decoder.process(item)
            case EngineHistory():
                return self._audit.process(item)
            case LostEvents():
                return self._gaps.process(item)
            case Snapshot():
                return self._reconciler.process(item)

    def cursor(self) -> bytes:
        """Return the cursor that holds once every event so far is safe."""
        return self._state.cursor(self._lookup.images.tags)

    def close(self) -> None:
        """Cancel the inspections under way."""
        self._lookup.inspections.cancel()
