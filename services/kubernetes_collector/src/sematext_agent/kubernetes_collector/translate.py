"""The translation of an event of the API to an `Event`; pure, and tolerant of what clusters hold.

core/v1 and events.k8s.io/v1 are two spellings of one stored object: whichever is filled is read.
Fields that clients have written in odd types or as null are accepted.
"""

from __future__ import annotations

import datetime
import functools
from typing import Any

import msgspec

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import Event, KubernetesEvent, event_id, format_rfc3339

FUTURE_SECONDS_MAX = 300
"""A time further ahead of our clock than this is an error of another machine's clock."""

COUNT_MAX = 2**31 - 1
"""An int32 in the API."""

Text = str | None


class EventMetadata(msgspec.Struct, frozen=True):
    """The identity of the event object, and its revision."""

    resource_version: str = msgspec.field(name="resourceVersion")
    uid: Text = None
    name: Text = None
    namespace: Text = None
    created: Any = msgspec.field(default=None, name="creationTimestamp")


class ObjectReference(msgspec.Struct, frozen=True):
    """The object of an event."""

    kind: Text = None
    namespace: Text = None
    name: Text = None
    uid: Text = None


class EventSource(msgspec.Struct, frozen=True):
    """The component that reported an event, in the older spelling."""

    component: Text = None
    host: Text = None


class EventSeries(msgspec.Struct, frozen=True, rename="camel"):
    """The count and the last time of an event, in the newer spelling."""

    count: Any = None
    last_observed_time: Any = None


class RawEvent(msgspec.Struct, frozen=True, rename="camel"):
    """The fields of both spellings that are used; `managedFields` are not even decoded."""

    metadata: EventMetadata
    involved_object: ObjectReference | None = None
    regarding: ObjectReference | None = None
    reason: Text = None
    message: Text = None
    note: Text = None
    type: Text = None
    action: Text = None
    count: Any = None
    deprecated_count: Any = None
    series: EventSeries | None = None
    event_time: Any = None
    first_timestamp: Any = None
    last_timestamp: Any = None
    deprecated_first_timestamp: Any = None
    deprecated_last_timestamp: Any = None
    source: EventSource | None = None
    deprecated_source: EventSource | None = None
    reporting_component: Text = None
    reporting_controller: Text = None
    reporting_instance: Text = None


class Cluster(msgspec.Struct, frozen=True):
    """The cluster that is watched."""

    uid: str
    """Of its namespace kube-system, which lives as long as the cluster."""
    name: str
    """As events carry it."""


def translate(raw: RawEvent, cluster: Cluster, now_ns: int) -> Event:
    """Return the event of `raw`, which arrived at `now_ns` (nanoseconds since the epoch)."""
    meta = raw.metadata
    subject = raw.involved_object or raw.regarding or _NO_OBJECT
    source = raw.source or raw.deprecated_source or _NO_SOURCE
    controller = raw.reporting_component or raw.reporting_controller or source.component or ""
    body = KubernetesEvent(
        uid=meta.uid or "",
        resource_version=meta.resource_version,
        reason=raw.reason or "",
        message=raw.message or raw.note or "",
        type=raw.type or "Normal",
        cluster=cluster.name,
        # An event without its object lives where the object lived.
        namespace=(meta.namespace if subject is _NO_OBJECT else subject.namespace) or "",
        kind=subject.kind or "",
        name=subject.name or "",
        object_uid=subject.uid or "",
        node=_node(raw, subject, source, controller),
        controller=controller,
        count=_count(raw),
        action=raw.action or "",
    )
    return Event(
        id=event_id(
            cluster.uid, body.uid or f"{meta.namespace}/{meta.name}", body.resource_version
        ),
        time=_time(raw, now_ns),
        origin=cluster.name,
        agent=AGENT_VERSION,
        body=body,
    )


_NO_OBJECT = ObjectReference()
_NO_SOURCE = EventSource()


def _node(raw: RawEvent, subject: ObjectReference, source: EventSource, controller: str) -> str:
    if source.host:
        return source.host
    if controller == "kubelet" and raw.reporting_instance:
        return raw.reporting_instance
    return (subject.name or "") if subject.kind == "Node" else ""


def _count(raw: RawEvent) -> int:
    for count in (raw.series and raw.series.count, raw.count, raw.deprecated_count):
        try:
            if count and 0 < int(count) <= COUNT_MAX:
                return int(count)
        except (TypeError, ValueError, OverflowError):
            continue
    return 1


def _time(raw: RawEvent, now_ns: int) -> str:
    """Return the last time it happened: the first usable one of both spellings, else now."""
    for written in (
        raw.series and raw.series.last_observed_time,
        raw.last_timestamp,
        raw.event_time,
        raw.deprecated_last_timestamp,
        raw.first_timestamp,
        raw.deprecated_first_timestamp,
        raw.metadata.created,
    ):
        if isinstance(written, str) and (time := _bounded_time(written, now_ns)):
            return time
    return format_rfc3339(now_ns)


def _bounded_time(written: str, now_ns: int) -> str:
    """Return a time as the bus writes it; empty for none, now for one far in the future."""
    seconds, time = _parse_time(written)
    return format_rfc3339(now_ns) if seconds > now_ns / 1e9 + FUTURE_SECONDS_MAX else time


@functools.lru_cache(maxsize=64)
def _parse_time(written: str) -> tuple[float, str]:
    """Return a time in seconds since the epoch and as the bus writes it; 0 and empty for none.

    Cached, because most events of a storm carry one of a few seconds.
    """
    try:
        moment = datetime.datetime.fromisoformat(written)
        seconds = moment.timestamp()
    except (ValueError, OverflowError):
        return 0.0, ""
    # Go writes a time that was never set as the year 1.
    if seconds <= 0 or moment.tzinfo is None:
        return 0.0, ""
    if moment.year == datetime.MAXYEAR:
        # Of the future anyway; in another zone it could leave the calendar.
        return seconds, ""
    moment = moment.astimezone(datetime.UTC)
    return seconds, f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond:06d}000Z"
