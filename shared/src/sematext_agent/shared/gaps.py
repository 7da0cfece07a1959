"""The event that reports a gap: events may be missing, because a source or a bound forgot them."""

from __future__ import annotations

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import Event, Gap, event_id


def gap_event(
    *identity: object,
    source: str,
    origin: str,
    reason: str,
    since: str,
    until: str,
    detail: str = "",
    lost: int | None = None,
    time: str = "",
) -> Event:
    """Return the event for a gap between `since` and `until`, both RFC 3339.

    `identity` names the gap at its source, so that it has the same id after any restart. `lost` is
    how many events are missing, where it is known; `time` of the event is `until` by default.
    """
    return Event(
        id=event_id(*identity),
        time=time or until,
        origin=origin,
        agent=AGENT_VERSION,
        body=Gap(source=source, reason=reason, since=since, until=until, detail=detail, lost=lost),
    )
