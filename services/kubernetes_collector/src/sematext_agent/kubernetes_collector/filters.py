"""The filters of events, from the settings."""

from __future__ import annotations

from collections.abc import Callable
from fnmatch import fnmatchcase

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.events import KubernetesEvent


class EventFilters:
    """The filters that are set; one that is not set costs nothing."""

    def __init__(self, settings: KubernetesSettings) -> None:
        kinds = _lower(settings.kubernetes_events_excluded)
        types = _lower(settings.kubernetes_events_types)
        spaces = settings.kubernetes_events_namespaces_included
        not_spaces = settings.kubernetes_events_namespaces_excluded
        reasons = settings.kubernetes_events_reasons_included
        not_reasons = settings.kubernetes_events_reasons_excluded
        count_min = settings.kubernetes_events_min_count
        exclusions: tuple[tuple[str, bool, Callable[[KubernetesEvent], bool]], ...] = (
            ("kind", bool(kinds), lambda body: body.kind.lower() in kinds),
            ("type", bool(types), lambda body: body.type.lower() not in types),
            ("namespace", bool(not_spaces), lambda body: _matches(body.namespace, not_spaces)),
            ("namespace", bool(spaces), lambda body: not _matches(body.namespace, spaces)),
            ("reason", bool(not_reasons), lambda body: _matches(body.reason, not_reasons)),
            ("reason", bool(reasons), lambda body: not _matches(body.reason, reasons)),
            ("count", count_min > 1, lambda body: body.count < count_min),
        )
        self._exclusions = [(name, excludes) for name, is_set, excludes in exclusions if is_set]

    def find_exclusion(self, body: KubernetesEvent) -> str:
        """Return the name of the filter that excludes this event; empty where none does."""
        for name, excludes in self._exclusions:
            if excludes(body):
                return name
        return ""


def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)
