"""The metrics of the watch. No label names an object, because there is no end to their number."""

from __future__ import annotations

from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import NS_PER_SECOND, parse_rfc3339
from sematext_agent.shared.health import Health

FRAME_KINDS = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class WatchMetrics:
    """The counters and figures of all namespaces that are watched."""

    def __init__(self, health: Health, clock: Clock) -> None:
        self._clock = clock
        frames = health.add_counter("watch_frames", "Frames of the watch.", "type")
        self.frames = {kind: frames.labels(kind) for kind in FRAME_KINDS}
        self.unknown_frames = frames.labels("other")
        self.filtered = health.add_counter(
            "events_filtered", "Events left out by a filter.", "filter"
        )
        self.relists = health.add_counter("relists", "Lists that replaced a watch.", "reason")
        self.short_watches = health.add_counter(
            "short_watches", "Watches that the server closed at once and empty."
        )
        self.undecodable = health.add_counter(
            "records_undecodable", "Lines and items left out because they cannot be decoded."
        )
        self.last_time = ""
        self.revision = 0
        health.add_figure(
            "resource_version", "The resourceVersion read last.", lambda: self.revision
        )
        health.add_figure(
            "last_event_age_seconds", "Age of the last published event.", self._last_event_age
        )

    def _last_event_age(self) -> float:
        if not self.last_time:
            return 0.0
        return (self._clock.wall_ns() - parse_rfc3339(self.last_time)) / NS_PER_SECOND
