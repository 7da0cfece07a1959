"""Follows a cluster's events: exactly from where we were, and around every way to lose the place.

The place is one number, a resourceVersion: what the cluster knows up to it has been seen. It is
stored with the acknowledgements (`shared.collector`), so a new start goes on from what is safe.

    watch -> turn -> relist   the events there are, a page at a time, nothing kept
                  -> follow   one connection, from the place on

One turn is one connection, and ends with it. The cluster forgets its history after five to ten
minutes (410): then the list shows what is new since our place, and a Gap says what it cannot show.
Some servers do not say 410 but close at once (GKE), some stay silent for ever (etcd restored from a
backup); both are noticed here.

Most events end with their time to live, an hour. The cluster tells that as DELETED: it is no news.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncGenerator
from contextlib import aclosing

import msgspec

from sematext_agent.kubernetes_collector.api import Api, ApiError, Patience
from sematext_agent.kubernetes_collector.cluster import identify
from sematext_agent.kubernetes_collector.enrichment import Objects, enriched
from sematext_agent.kubernetes_collector.feed import Feed
from sematext_agent.kubernetes_collector.frames import Undecodable, decode_frame, decode_item
from sematext_agent.kubernetes_collector.merging import merged
from sematext_agent.kubernetes_collector.metrics import Metrics
from sematext_agent.kubernetes_collector.place import Place, gap
from sematext_agent.kubernetes_collector.selection import Filters, Repeats
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster, RawEvent, translate
from sematext_agent.shared.collector import Observation, read_cursor
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import NS_PER_SECOND, Event, KubernetesEvent, parse_rfc3339
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

PACE_SECONDS = 1.0
"""The least time between two watches."""
SHORT_SECONDS = 5.0
"""A watch that closed sooner, without a word, may be a server's way to say 410."""
STALE_SECONDS = 60.0
"""How old our place may be for one such close to be an accident."""
POISON_TRIES = 3
"""How often a line that cannot be decoded is asked for again, before it is left out."""


class ClusterReplaced(RestartRequested):
    """Another cluster answers at the same address: everything starts anew, in a new process."""


async def watch(
    api: Api,
    patience: Patience,
    cluster: Cluster,
    runtime: Runtime[KubernetesSettings],
    _cursor: bytes | None,
) -> AsyncGenerator[Observation, None]:
    """Every event of the cluster, from the stored place on, until `runtime.stopping` is set.

    The place is stored by cluster and namespace, so the cursor that every collector is handed is
    not used: after a change of either it would be a number of another world.

    Raises:
        ClusterReplaced: another cluster answers at the same address.
    """
    metrics = Metrics(runtime.health)
    followers = [
        Follower(api, patience, cluster, runtime, metrics, namespace).follow()
        for namespace in dict.fromkeys(runtime.settings.kubernetes_events_namespace or ("",))
    ]
    source = merged(followers)
    if runtime.settings.kubernetes_events_enrichment:
        source = enriched(source, Objects(api, runtime.health))
    async with aclosing(source) as observations:
        async for observed in observations:
            yield observed


class Follower:
    """Follows the events of one cluster, or of one namespace of it."""

    def __init__(
        self,
        api: Api,
        patience: Patience,
        cluster: Cluster,
        runtime: Runtime[KubernetesSettings],
        metrics: Metrics,
        namespace: str,
    ) -> None:
        self._api = api
        several = len(runtime.settings.kubernetes_events_namespace) > 1
        self._patience = patience.about(namespace) if several else patience
        self._cluster = cluster
        self._runtime = runtime
        self._settings = runtime.settings
        self._feed = Feed(api, self._patience, runtime.stopping, namespace)
        self._scope = f"{cluster.uid}_{namespace}" if namespace else cluster.uid
        self._filters = Filters(self._settings)
        self._repeats = Repeats(self._settings.kubernetes_events_interval)
        self._backoff = Backoff(0.2, 30)
        self._metrics = metrics
        self._place: Place | None = None
        self._relist_for = ""  # why the next turn must begin with a list
        self._oldest_ns: int | None = None  # how old an event may be, where no place says it
        self._proven = False  # whether the last watch showed that our place is in the past
        self._fresh_at = -STALE_SECONDS  # when the server last said something about our place
        self._listed_in_vain = False  # whether nothing has come since the last list
        self._short_watches = 0
        self._poison: tuple[bytes, int] = b"", 0  # the line that could not be decoded; how often
        self._opened_at = -PACE_SECONDS
        self._now_ns = 0  # when what is being looked at arrived

    async def follow(self) -> AsyncGenerator[Observation, None]:
        """Every event, from the stored place on, until we shall stop."""
        await self._restore()
        while not self._runtime.stopping.is_set():
            async with aclosing(self._turn()) as observations:
                async for observed in observations:
                    yield observed
        for observed in self._last_words():
            yield observed

    async def _restore(self) -> None:
        """Takes up the place that was stored for this cluster, if there is one."""
        stored = await read_cursor(self._runtime, self._scope)
        if stored is not None:
            try:
                self._place = msgspec.json.decode(stored, type=Place)
                log.info("going on from revision %d", self._place.revision)
                return
            except DECODE_ERRORS as error:
                log.warning("the stored place cannot be read: %s", error)
        self._start_anew("first start", time.time())

    def _start_anew(self, reason: str, since: float) -> None:
        """Gives up the place: the next turn lists what is not older than the look-back."""
        self._relist_for = reason
        self._oldest_ns = int((since - self._settings.kubernetes_events_lookback) * NS_PER_SECOND)

    async def _turn(self) -> AsyncGenerator[Observation, None]:
        """One connection: from wherever we are to its end. Waits after it, if it failed."""
        try:
            if not self._relist_for and not self._proven:
                await self._check_place()
            if self._relist_for:
                async with aclosing(self._relist()) as listed:
                    async for observed in listed:
                        yield observed
            if not self._relist_for and not self._runtime.stopping.is_set():
                async with aclosing(self._follow()) as followed:
                    async for observed in followed:
                        yield observed
        except ApiError as error:
            self._proven = False
            if error.status == 410:
                self._relist_for = "expired"
            # What is expired is listed at once; but not again and again.
            if error.status != 410 or self._listed_in_vain:
                await self._patience.after(error, self._backoff, PACE_SECONDS)

    async def _check_place(self) -> None:
        """Compares our place with the cluster's.

        A watch from a revision that is still to come does not fail: it stays silent. That happens
        after etcd was restored from a backup, or with another cluster at the same address.
        """
        assert self._place is not None
        page = await self._feed.page(limit=1)
        if page is None or page.revision >= self._place.revision:
            return
        log.warning("the cluster is at an older revision than we are: it was restored")
        here = await self._patience.persist(lambda: identify(self._api, self._settings))
        if here is not None and here.uid != self._cluster.uid:
            raise ClusterReplaced(f"cluster {here.uid} answers where {self._cluster.uid} was")
        self._start_anew("restored", self._place.seen)

    async def _relist(self) -> AsyncGenerator[Observation, None]:
        """What the cluster holds and we have not seen; our place is what the list shows then.

        It holds only when everything listed is safe, so it comes with the last observation.
        """
        reason, began, revision = self._relist_for, time.time(), 0
        found = repeated = 0
        self._metrics.relists.labels(reason).inc()
        self._patience.well(f"reading the list of events: {reason}")
        async with aclosing(self._feed.pages()) as pages:
            async for page in pages:
                self._now_ns = time.time_ns()
                # What the first page does not show yet, the watch tells.
                revision = revision or page.revision
                if self._place is None and not self._settings.kubernetes_events_lookback:
                    break
                for item in page.items or []:
                    if event := self._on_item(item):
                        found += 1
                        repeated += isinstance(event.body, KubernetesEvent) and event.body.count > 1
                        yield Observation(event)
        if self._runtime.stopping.is_set():
            return
        missing = None
        if self._place is not None:
            missing = gap(self._cluster, self._scope, self._place, reason, began, repeated)
        self._place = Place(revision, began)
        self._metrics.revision = revision
        self._relist_for, self._oldest_ns = "", None
        self._fresh_at, self._listed_in_vain = _clock(), True
        log.info("listed the events (%s): %d are new", reason, found)
        yield self._observed(missing)

    def _on_item(self, item: msgspec.Raw) -> Event | None:
        """What to tell of an item of the list: nothing, if it was told or is too old."""
        try:
            revision, raw = decode_item(item)
        except Undecodable as error:
            self._metrics.undecodable.inc()
            log.warning("left out an item of the list: %s", error)
            return None
        if self._oldest_ns is None and self._place and revision <= self._place.revision:
            return None
        event = self._select(raw)
        if event is None:
            return None
        if self._oldest_ns is not None and parse_rfc3339(event.time) < self._oldest_ns:
            self._metrics.filtered.labels("age").inc()
            return None
        self._repeats.tell(event)
        return event

    async def _follow(self) -> AsyncGenerator[Observation, None]:
        """One watch, from our place to the end of the connection."""
        assert self._place is not None
        await self._patience.pause(self._opened_at + PACE_SECONDS - _clock())
        self._opened_at, heard = _clock(), False
        lines = self._feed.lines(self._place.revision, lambda: self._repeats.seconds_to_next)
        async with aclosing(lines):
            async for some in lines:
                self._patience.well("watching the events")
                for event in self._repeats.due():
                    yield self._observed(event)
                self._now_ns = time.time_ns()
                for line in some:
                    yield self._on_line(line)
                    heard = True
                if some:
                    self._came_on()
        if not self._runtime.stopping.is_set():
            yield self._on_end(heard)

    def _on_line(self, line: bytes) -> Observation:
        """What a line of the watch says: an event or none, and how far we are with it.

        Raises:
            ApiError: the watch is over; or the line is broken, and must be asked for again.
        """
        try:
            kind, revision, raw = decode_frame(line)
        except Undecodable as error:
            same, tries = self._poison
            self._poison = line, (tries + 1 if same == line else 1)
            if self._poison[1] < POISON_TRIES:
                raise ApiError(0, f"a line that cannot be decoded: {error}") from error
            self._metrics.undecodable.inc()
            log.warning("left out a line of the watch: %s", error)
            return Observation(None)
        self._metrics.frames.get(kind, self._metrics.other_frames).inc()
        event = self._select(raw) if raw is not None else None
        if event is not None and not self._repeats.admit(event, revision):
            self._metrics.filtered.labels("interval").inc()
            event = None
        self._place = Place(revision, self._now_ns / NS_PER_SECOND)
        self._metrics.revision = revision
        return self._observed(event)

    def _select(self, raw: RawEvent) -> Event | None:
        """The event, unless a filter leaves it out."""
        event = translate(raw, self._cluster, self._now_ns)
        assert isinstance(event.body, KubernetesEvent)
        if dropped := self._filters.dropped_by(event.body):
            self._metrics.filtered.labels(dropped).inc()
            return None
        self._metrics.last_time = event.time
        return event

    def _on_end(self, heard: bool) -> Observation:
        """The server closed the watch as it should; or was that its way to say 410?

        Google's front end closes a watch from a forgotten revision at once, with 200 and nothing in
        it: https://github.com/kubernetes/kubernetes/issues/137089

        Raises:
            ApiError: 410, most likely.
        """
        assert self._place is not None
        self._proven = heard
        if heard or _clock() - self._opened_at >= SHORT_SECONDS:
            self._came_on()
            self._place = Place(self._place.revision, time.time())
            return self._observed(None)
        self._metrics.short.inc()
        self._short_watches += 1
        if self._short_watches > 1 or _clock() - self._fresh_at > STALE_SECONDS:
            raise ApiError(410, "the server closed the watch at once, without a word")
        return Observation(None)

    def _came_on(self) -> None:
        """The watch does what it should: nothing that failed before counts any more."""
        self._fresh_at = _clock()
        self._listed_in_vain = False
        self._short_watches = 0
        self._backoff.reset()

    def _last_words(self) -> list[Observation]:
        """The repeats that still wait to be told, when we shall stop."""
        if self._place is None:
            return []
        told = [Observation(event) for event in self._repeats.due(all_of_them=True)]
        return [*told, self._observed(None)]

    def _observed(self, event: Event | None) -> Observation:
        """An event or none, and how far we are: not past a repeat that still waits to be told."""
        assert self._place is not None
        floor = self._repeats.floor
        place = self._place if floor is None else Place(floor - 1, self._place.seen)
        return Observation(event, _encoder.encode(place), self._scope)


_encoder = msgspec.json.Encoder()


def _clock() -> float:
    return asyncio.get_running_loop().time()
