"""Which events are told: filters, and the interval at which repeats are."""

from __future__ import annotations

import asyncio
from collections import OrderedDict, deque
from collections.abc import Callable
from fnmatch import fnmatchcase

import msgspec

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.events import Event, KubernetesEvent

_REMEMBERED_MAX = 50_000


class Filters:
    """The filters that are set; one that is not set costs nothing."""

    def __init__(self, settings: KubernetesSettings) -> None:
        kinds = _lower(settings.kubernetes_events_excluded)
        types = _lower(settings.kubernetes_events_types)
        spaces = settings.kubernetes_events_namespaces_included
        not_spaces = settings.kubernetes_events_namespaces_excluded
        reasons = settings.kubernetes_events_reasons_included
        not_reasons = settings.kubernetes_events_reasons_excluded
        least = settings.kubernetes_events_min_count
        drops: tuple[tuple[str, bool, Callable[[KubernetesEvent], bool]], ...] = (
            ("kind", bool(kinds), lambda body: body.kind.lower() in kinds),
            ("type", bool(types), lambda body: body.type.lower() not in types),
            ("namespace", bool(not_spaces), lambda body: _matches(body.namespace, not_spaces)),
            ("namespace", bool(spaces), lambda body: not _matches(body.namespace, spaces)),
            ("reason", bool(not_reasons), lambda body: _matches(body.reason, not_reasons)),
            ("reason", bool(reasons), lambda body: not _matches(body.reason, reasons)),
            ("count", least > 1, lambda body: body.count < least),
        )
        self._drops = [(name, drops_it) for name, is_set, drops_it in drops if is_set]

    def dropped_by(self, body: KubernetesEvent) -> str:
        """The name of the filter that leaves this event out; empty where it is told."""
        for name, drops_it in self._drops:
            if drops_it(body):
                return name
        return ""


def _lower(names: tuple[str, ...]) -> frozenset[str]:
    return frozenset(name.lower() for name in names)


def _matches(text: str, patterns: tuple[str, ...]) -> bool:
    return any(fnmatchcase(text, pattern) for pattern in patterns)


class _Told(msgspec.Struct):
    """An event that was told a moment ago, and what has repeated since."""

    due: float
    waits_from: int = 0
    """The oldest revision that is not told yet; 0 while nothing has repeated."""
    last: Event | None = None


class Repeats:
    """Tells the repeats of an event at most once in `seconds`, and always the last of them.

    What waits here is neither told nor dropped, so the cursor must stay before `floor`. Times are
    the event loop's.
    """

    def __init__(self, seconds: float) -> None:
        self._seconds = seconds
        # By the event's uid, in the order in which they fall due, as every wait is as long.
        self._told: OrderedDict[str, _Told] = OrderedDict()
        # Every revision at which a wait began, with the event's uid; those at the front that are
        # over are forgotten when somebody asks.
        self._waits: deque[tuple[int, str]] = deque()

    def admit(self, event: Event, revision: int) -> bool:
        """Whether to tell `event` now; if not, it waits here, unless a newer one replaces it."""
        assert isinstance(event.body, KubernetesEvent)
        if not self._seconds:
            return True
        uid = event.body.uid
        told = self._told.get(uid)
        if told is None:
            self._remember(uid)
            return True
        if not told.waits_from:
            told.waits_from = revision
            self._waits.append((revision, uid))
        told.last = event
        return False

    def tell(self, event: Event) -> None:
        """`event` is told without asking, as a list shows it: what waits of it need not be."""
        assert isinstance(event.body, KubernetesEvent)
        self._told.pop(event.body.uid, None)
        self._remember(event.body.uid)

    def _remember(self, uid: str) -> None:
        if self._seconds and len(self._told) < _REMEMBERED_MAX:
            self._told[uid] = _Told(_now() + self._seconds)

    @property
    def floor(self) -> int | None:
        """The oldest revision that waits to be told; None while nothing waits."""
        while self._waits:
            revision, uid = self._waits[0]
            told = self._told.get(uid)
            if told is not None and told.waits_from == revision:
                return revision
            self._waits.popleft()
        return None

    @property
    def seconds_to_next(self) -> float | None:
        """How long until something falls due; None while nothing does."""
        return max(0.0, next(iter(self._told.values())).due - _now()) if self._told else None

    def due(self, all_of_them: bool = False) -> list[Event]:
        """What is to be told now: what has waited for long enough, or everything at the end."""
        telling = []
        while self._told:
            uid, told = next(iter(self._told.items()))
            if told.due > _now() and not all_of_them:
                break
            del self._told[uid]
            if told.last is not None:
                telling.append(told.last)
                # Telling it begins a new wait: a steady repeat is told once in each.
                if not all_of_them:
                    self._remember(uid)
        return telling


def _now() -> float:
    return asyncio.get_running_loop().time()
