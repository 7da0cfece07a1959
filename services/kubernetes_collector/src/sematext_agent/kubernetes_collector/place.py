"""How far we are in a cluster's history, and what is missing where it has forgotten some."""

from __future__ import annotations

from typing import Annotated

import msgspec

from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, event_id, format_rfc3339

EVENT_TTL_SECONDS = 3600
"""How long a cluster keeps an event (`--event-ttl`, 1 h unless somebody changed it)."""


class Place(msgspec.Struct, frozen=True):
    """The cursor as it is stored: all of the cluster's history up to a resourceVersion is safe."""

    revision: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
    seen: Annotated[float, msgspec.Meta(ge=0, le=2**63 / NS_PER_SECOND)]
    """When this was known to be all there is, in seconds since the epoch."""


def gap(
    cluster: Cluster, scope: str, before: Place, reason: str, until: float, repeated: int
) -> Event | None:
    """What a list could not show, of the time from `before` until then.

    A list shows every event as it is now. Of one that repeated it shows the last repeat only, and
    what has lived its hour is gone. `repeated` says how many of the first kind were in it. None
    where neither can have happened.
    """
    blind = until - before.seen
    reasons = []
    if repeated:
        reasons.append(f"of {repeated} events that repeated only the last repeat is known")
    if blind >= EVENT_TTL_SECONDS:
        reasons.append("events that lived only then are missing")
    if reason == "restored":
        reasons.append("the cluster was restored to an older state")
    if not reasons:
        return None
    body = Gap(
        source="kubernetes",
        reason=reason,
        since=format_rfc3339(int(before.seen * NS_PER_SECOND)),
        until=format_rfc3339(int(until * NS_PER_SECOND)),
        detail=f"{blind:.0f} s were not watched: {'; '.join(reasons)}",
    )
    return Event(
        # By the place: whoever comes back to the same one tells of the same gap.
        id=event_id(cluster.uid, "gap", scope, before.revision),
        time=body.until,
        origin=cluster.name,
        agent=AGENT_VERSION,
        body=body,
    )
