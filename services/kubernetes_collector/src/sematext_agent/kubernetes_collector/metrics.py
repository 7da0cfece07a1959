"""What is counted of a cluster's events. No names of objects in labels: there is no end to them."""

from __future__ import annotations

import time

from sematext_agent.shared.events import NS_PER_SECOND, parse_rfc3339
from sematext_agent.shared.health import Health

FRAMES = ("ADDED", "MODIFIED", "DELETED", "BOOKMARK")


class Metrics:
    """One for all namespaces that are watched."""

    def __init__(self, health: Health) -> None:
        frames = health.add_counter("watch_frames", "Frames of the watch.", "type")
        self.frames = {kind: frames.labels(kind) for kind in FRAMES}
        self.other_frames = frames.labels("other")
        self.filtered = health.add_counter(
            "events_filtered", "Events left out by a filter.", "filter"
        )
        self.relists = health.add_counter("relists", "Lists that replaced a watch.", "reason")
        self.short = health.add_counter("short_watches", "Watches closed at once, without a word.")
        self.undecodable = health.add_counter(
            "records_undecodable", "Lines and items left out as unreadable."
        )
        self.last_time = ""
        self.revision = 0
        health.add_figure(
            "resource_version", "The resourceVersion read last.", lambda: self.revision
        )
        health.add_figure(
            "last_event_age_seconds", "Age of the event told last.", self._last_seconds
        )

    def _last_seconds(self) -> float:
        return (
            time.time() - parse_rfc3339(self.last_time) / NS_PER_SECOND if self.last_time else 0.0
        )
