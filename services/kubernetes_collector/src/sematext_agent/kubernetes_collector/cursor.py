"""The cursor in a cluster's history, and the gap where the cluster has forgotten a part of it."""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.shared.collector import read_cursor
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import NS_PER_SECOND, Event, format_rfc3339
from sematext_agent.shared.gaps import gap_event
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

EVENT_TTL_SECONDS = 3600
"""The life of an event in a cluster (`--event-ttl`, one hour by default)."""


class WatchCursor(msgspec.Struct, frozen=True):
    """The cursor as it is stored: all history up to a resourceVersion is published."""

    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    verified_at: Annotated[float, msgspec.Meta(ge=0, le=2**63 / NS_PER_SECOND)] = msgspec.field(
        name="seen"
    )
    """The last time at which the cluster had nothing newer, in seconds since the epoch."""


async def read_watch_cursor(runtime: Runtime[KubernetesSettings], scope: str) -> WatchCursor | None:
    """Return the stored cursor of `scope`, or None where there is none that can be decoded."""
    stored = await read_cursor(runtime, scope)
    if stored is None:
        return None
    try:
        cursor = msgspec.json.decode(stored, type=WatchCursor)
    except DECODE_ERRORS as error:
        log.warning("stored cursor ignored: %s (listing the events anew)", error)
        return None
    log.info("resuming: the stored cursor is at revision %d", cursor.revision)
    return cursor


def list_gap(
    cluster: Cluster, scope: str, before: WatchCursor, reason: str, until: float, repeated: int
) -> Event | None:
    """Return the gap between `before` and a list that began at `until`; None where there is none.

    A list shows each event in its newest revision. It hides earlier repeats of the `repeated`
    events with a count above one, and every event that lived and expired in between. The id comes
    from the cursor: a second list from the same cursor reports the same gap.
    """
    unwatched_seconds = until - before.verified_at
    losses = []
    if repeated:
        losses.append(f"of {repeated} events that repeated only the last repeat is known")
    if unwatched_seconds >= EVENT_TTL_SECONDS:
        losses.append("events that lived only then are missing")
    if reason == "restored":
        losses.append("the cluster was restored to an older state")
    if not losses:
        return None
    return gap_event(
        cluster.uid,
        "gap",
        scope,
        before.revision,
        source="kubernetes",
        origin=cluster.name,
        reason=reason,
        since=format_rfc3339(int(before.verified_at * NS_PER_SECOND)),
        until=format_rfc3339(int(until * NS_PER_SECOND)),
        detail=f"{unwatched_seconds:.0f} s were not watched: {'; '.join(losses)}",
    )
