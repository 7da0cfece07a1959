"""The watch of a cluster's events: three nested generators, each with one reason to loop.

    watch_forever       begins again after a failure: a refused request, an expired cursor
      list_and_watch    begins the next watch, because the server ends each one in time
        watch_once      reads one request to its end

A cursor goes in, and batches come out, each with the cursor that holds after it; between them no
state is kept. Where the cluster has forgotten the history after the cursor (410 after five to ten
minutes), the events are listed: `ListedEvents`, then `ListEnd`, which separates state from news.

Some servers close the watch at once instead of answering 410 (GKE), and some stay silent for ever
(etcd restored from a backup). Both are noticed here.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncGenerator, Iterator
from contextlib import aclosing

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.cluster import identify
from sematext_agent.kubernetes_collector.cursor import WatchCursor
from sematext_agent.kubernetes_collector.events_resource import EventsResource
from sematext_agent.kubernetes_collector.frames import Frame, FrameReader
from sematext_agent.kubernetes_collector.metrics import WatchMetrics
from sematext_agent.kubernetes_collector.recovery import ShortWatchError, WatchRecovery
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster, RawEvent
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

SHORT_SECONDS = 5.0
"""The longest life of an empty watch that may be a server's way to answer 410."""


class ClusterReplaced(RestartRequested):
    """Another cluster answers at the same address: the process starts anew."""


class ClusterRestoredError(Exception):
    """The cluster is at an older revision than the cursor: it was restored from a backup."""


class Relist(msgspec.Struct, frozen=True):
    """A list that must be read before the next watch."""

    reason: str
    oldest_ns: int | None = None
    """The oldest time of an event to publish, in nanoseconds since the epoch; None: the cursor
    decides instead."""


class ListedEvents(msgspec.Struct, frozen=True):
    """The events of one page of a list."""

    events: Iterator[RawEvent]
    """Decoded one by one, so that a page costs no more memory than its bytes."""
    oldest_ns: int | None
    """As in `Relist`."""
    arrived_ns: int
    """The wall clock at the arrival, in nanoseconds since the epoch."""


class ListEnd(msgspec.Struct, frozen=True):
    """The end of a list: all events before it are state, all after it are news."""

    reason: str
    before: WatchCursor | None
    """The cursor that the list replaces."""
    cursor: WatchCursor


class WatchedFrames(msgspec.Struct, frozen=True):
    """The frames that one read of a watch brought; none when only the time has moved on."""

    frames: list[Frame]
    cursor: WatchCursor
    """The cursor that holds after the frames."""
    arrived_ns: int


SourceBatch = ListedEvents | ListEnd | WatchedFrames


class EventWatcher:
    """The source: the events of one cluster, or of one namespace of it."""

    def __init__(
        self,
        api: Api,
        resource: EventsResource,
        retries: RetryPolicy,
        cluster: Cluster,
        runtime: Runtime[KubernetesSettings],
        metrics: WatchMetrics,
    ) -> None:
        self._api = api
        self._resource = resource
        self._retries = retries
        self._cluster = cluster
        self._settings = runtime.settings
        self._stopping = runtime.stopping
        self._clock = runtime.clock
        self._metrics = metrics
        self._reader = FrameReader(metrics)
        self._recovery = WatchRecovery(retries, runtime.clock)

    async def watch_forever(self, cursor: WatchCursor | None) -> AsyncGenerator[SourceBatch, None]:
        """Yield what happens after `cursor` until the service stops; begin again after a failure.

        Without a cursor it begins with a list.

        Raises:
            ClusterReplaced: another cluster answers at the same address.
        """
        relist = None if cursor else self._relist_recent("first start", self._now_seconds())
        while not self._stopping.is_set():
            try:
                async with aclosing(self.list_and_watch(cursor, relist)) as batches:
                    async for batch in batches:
                        if isinstance(batch, WatchedFrames):
                            if batch.cursor is not cursor:
                                cursor = batch.cursor
                                self._recovery.record_progress()
                        elif isinstance(batch, ListEnd):
                            cursor, relist = batch.cursor, None
                            self._recovery.record_list()
                        yield batch
            except ClusterRestoredError:
                assert cursor is not None
                relist = self._relist_recent("restored", cursor.verified_at)
            except ApiError as error:
                if await self._recovery.pause_after(error):
                    relist = Relist("expired")

    async def list_and_watch(
        self, cursor: WatchCursor | None, relist: Relist | None
    ) -> AsyncGenerator[SourceBatch, None]:
        """Yield a list, if one is due, then watch after watch, as the server ends each in time.

        Raises:
            ApiError: a watch failed; status 410, the cursor has expired.
            ClusterRestoredError: the cursor is in the cluster's future.
            ClusterReplaced: another cluster answers at the same address.
        """
        if relist is not None:
            async with aclosing(self._list(cursor, relist)) as batches:
                async for batch in batches:
                    if isinstance(batch, ListEnd):
                        cursor = batch.cursor
                    yield batch
        is_confirmed = relist is not None
        while cursor is not None and not self._stopping.is_set():
            if not is_confirmed:
                await self._check_history(cursor)
            is_confirmed = False
            async with aclosing(self.watch_once(cursor)) as watched:
                async for frames in watched:
                    cursor = frames.cursor
                    is_confirmed = is_confirmed or bool(frames.frames)
                    yield frames

    async def watch_once(self, cursor: WatchCursor) -> AsyncGenerator[WatchedFrames, None]:
        """Yield the frames of one watch after `cursor`, until the server ends it.

        Raises:
            ApiError: the watch was refused, broke off, or brought a line that must be read again.
            ShortWatchError: the server closed it at once and empty.
        """
        await self._recovery.pace()
        opened_at, is_empty = self._clock.monotonic(), True
        async with aclosing(self._resource.watch_lines(cursor.revision)) as chunks:
            async for lines in chunks:
                self._retries.report_success("watching the events")
                now_ns = self._clock.wall_ns()
                frames, error = self._reader.decode_lines(lines)
                if error is not None and not frames:
                    raise error
                if lines:
                    is_empty = False
                    revision = frames[-1].revision if frames else cursor.revision
                    cursor = WatchCursor(revision, now_ns / NS_PER_SECOND)
                yield WatchedFrames(frames, cursor, now_ns)
                if error is not None:
                    raise error
        if self._stopping.is_set():
            return
        if is_empty and self._clock.monotonic() - opened_at < SHORT_SECONDS:
            self._metrics.short_watches.inc()
            raise ShortWatchError
        now_ns = self._clock.wall_ns()
        yield WatchedFrames([], WatchCursor(cursor.revision, now_ns / NS_PER_SECOND), now_ns)

    async def _list(
        self, cursor: WatchCursor | None, relist: Relist
    ) -> AsyncGenerator[ListedEvents | ListEnd, None]:
        """Yield the events that the cluster holds and `cursor` has not, then the end of the list.

        The end is not reached when the service stops.
        """
        began_at, revision = self._now_seconds(), 0
        after_revision = cursor.revision if cursor and relist.oldest_ns is None else -1
        wants_events = cursor is not None or bool(self._settings.kubernetes_events_lookback)
        self._metrics.relists.labels(relist.reason).inc()
        self._retries.report_success(f"reading the list of events: {relist.reason}")
        async with aclosing(self._resource.list_pages()) as pages:
            async for page in pages:
                # The watch shows what the first page does not show yet.
                revision = revision or page.revision
                if not wants_events:
                    break
                events = self._reader.decode_items(page.items, after_revision)
                yield ListedEvents(events, relist.oldest_ns, self._clock.wall_ns())
        if not self._stopping.is_set():
            yield ListEnd(relist.reason, cursor, WatchCursor(revision, began_at))

    async def _check_history(self, cursor: WatchCursor) -> None:
        """Raise where `cursor` is ahead of the cluster; a watch from there would stay silent.

        Raises:
            ClusterRestoredError: etcd was restored from a backup.
            ClusterReplaced: another cluster answers at the same address.
        """
        page = await self._resource.read_page(limit=1)
        if page is None or page.revision >= cursor.revision:
            return
        log.warning("cluster at an older revision than the cursor: it was restored (listing anew)")
        cluster = await self._retries.retry(lambda: identify(self._api, self._settings))
        if cluster is not None and cluster.uid != self._cluster.uid:
            raise ClusterReplaced(f"cluster {cluster.uid} answers in place of {self._cluster.uid}")
        raise ClusterRestoredError

    def _relist_recent(self, reason: str, since_seconds: float) -> Relist:
        """Return a list of the events that are at most the look-back older than `since_seconds`."""
        oldest_seconds = since_seconds - self._settings.kubernetes_events_lookback
        return Relist(reason, int(oldest_seconds * NS_PER_SECOND))

    def _now_seconds(self) -> float:
        return self._clock.wall_ns() / NS_PER_SECOND
