"""Raw events become observations: translated, filtered, at their interval, with their cursor."""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Callable, Iterator
from contextlib import aclosing

import msgspec

from sematext_agent.kubernetes_collector.cursor import WatchCursor, list_gap, read_watch_cursor
from sematext_agent.kubernetes_collector.filters import EventFilters
from sematext_agent.kubernetes_collector.metrics import WatchMetrics
from sematext_agent.kubernetes_collector.repeats import RepeatLimiter
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster, RawEvent, translate
from sematext_agent.kubernetes_collector.watch import (
    ListedEvents,
    ListEnd,
    SourceBatch,
    WatchedFrames,
)
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, KubernetesEvent, parse_rfc3339
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)


class EventObserver:
    """The translation of batches of the source to observations, in their order."""

    def __init__(
        self,
        cluster: Cluster,
        scope: str,
        runtime: Runtime[KubernetesSettings],
        limiter: RepeatLimiter,
        metrics: WatchMetrics,
    ) -> None:
        """Observe for `scope`, the name of the cursor that these events move."""
        self._cluster = cluster
        self._scope = scope
        self._runtime = runtime
        self._filters = EventFilters(runtime.settings)
        self._limiter = limiter
        self._metrics = metrics
        self._cursor: WatchCursor | None = None
        self._listed = 0
        self._listed_repeats = 0

    async def observe(
        self, watch: Callable[[WatchCursor | None], AsyncGenerator[SourceBatch, None]]
    ) -> AsyncGenerator[Observation, None]:
        """Yield an observation for each event or move of the cursor in `watch(stored cursor)`.

        At the end come the repeats that are held back.
        """
        self._cursor = await read_watch_cursor(self._runtime, self._scope)
        async with aclosing(watch(self._cursor)) as batches:
            async for batch in batches:
                for observation in self._observe_batch(batch):
                    yield observation
        if self._cursor is not None:
            for event in self._limiter.release(everything=True):
                yield Observation(event)
            yield self._with_cursor(None)

    def _observe_batch(self, batch: SourceBatch) -> Iterator[Observation]:
        if isinstance(batch, WatchedFrames):
            return self._observe_frames(batch)
        if isinstance(batch, ListedEvents):
            return self._observe_list(batch)
        return self._end_list(batch)

    def _observe_frames(self, batch: WatchedFrames) -> Iterator[Observation]:
        for event in self._limiter.release():
            yield self._with_cursor(event)
        verified_at, metrics = batch.cursor.verified_at, self._metrics
        for frame in batch.frames:
            metrics.frames.get(frame.kind, metrics.unknown_frames).inc()
            admitted = None
            if frame.event is not None:
                admitted = self._select(frame.event, batch.arrived_ns)
            if admitted is not None and not self._limiter.admit(admitted, frame.revision):
                metrics.filtered.labels("interval").inc()
                admitted = None
            self._cursor = WatchCursor(frame.revision, verified_at)
            metrics.revision = frame.revision
            yield self._with_cursor(admitted)
        is_end_of_watch = not batch.frames and batch.cursor is not self._cursor
        self._cursor = batch.cursor
        if is_end_of_watch:
            yield self._with_cursor(None)

    def _observe_list(self, batch: ListedEvents) -> Iterator[Observation]:
        """Yield the events without a cursor: it holds when all of the list is published."""
        for raw in batch.events:
            event = self._select(raw, batch.arrived_ns)
            if event is None:
                continue
            if batch.oldest_ns is not None and parse_rfc3339(event.time) < batch.oldest_ns:
                self._metrics.filtered.labels("age").inc()
                continue
            self._limiter.record_published(event)
            self._listed += 1
            self._listed_repeats += isinstance(event.body, KubernetesEvent) and event.body.count > 1
            yield Observation(event)

    def _end_list(self, end: ListEnd) -> Iterator[Observation]:
        """Yield the cursor of the list, with the gap that it leaves, if any."""
        log.info("events listed: %s; %d are new", end.reason, self._listed)
        gap = None
        if end.before is not None:
            gap = list_gap(
                self._cluster,
                self._scope,
                end.before,
                end.reason,
                end.cursor.verified_at,
                self._listed_repeats,
            )
        self._listed = self._listed_repeats = 0
        self._cursor = end.cursor
        self._metrics.revision = end.cursor.revision
        yield self._with_cursor(gap)

    def _select(self, raw: RawEvent, now_ns: int) -> Event | None:
        """Return the event of `raw`, or None where a filter excludes it."""
        event = translate(raw, self._cluster, now_ns)
        assert isinstance(event.body, KubernetesEvent)
        if excluded_by := self._filters.find_exclusion(event.body):
            self._metrics.filtered.labels(excluded_by).inc()
            return None
        self._metrics.last_time = event.time
        return event

    def _with_cursor(self, event: Event | None) -> Observation:
        """Return `event` with the cursor, which stays before every repeat that is held back."""
        assert self._cursor is not None
        held = self._limiter.oldest_held_revision
        cursor = self._cursor if held is None else WatchCursor(held - 1, self._cursor.verified_at)
        return Observation(event, _cursor_encoder.encode(cursor), self._scope)


_cursor_encoder = msgspec.json.Encoder()
