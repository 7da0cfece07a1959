"""The interval at which the repeats of one event are published."""

from __future__ import annotations

from collections import OrderedDict, deque

import msgspec

from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import Event, KubernetesEvent

_REMEMBERED_MAX = 50_000


class _Interval(msgspec.Struct):
    """The interval that began when an event was published."""

    ends_at: float
    """Seconds of the monotonic clock."""
    held_from: int = 0
    """The oldest revision that is held back; 0 while nothing has repeated."""
    last: Event | None = None


class RepeatLimiter:
    """The limit for repeats of one event: one in an interval is published, always the last.

    A repeat that is held back is neither published nor left out, so the stored cursor must stay
    before `oldest_held_revision`.
    """

    def __init__(self, interval_seconds: float, clock: Clock) -> None:
        self._interval_seconds = interval_seconds
        self._clock = clock
        # By the event's uid, in the order in which they end, as all are of one length.
        self._intervals: OrderedDict[str, _Interval] = OrderedDict()
        # The first revision held in each interval, with the uid. An entry whose interval has
        # ended is removed when it reaches the front.
        self._held: deque[tuple[int, str]] = deque()

    def admit(self, event: Event, revision: int) -> bool:
        """Return whether to publish `event` now; if not, it replaces an older held repeat."""
        assert isinstance(event.body, KubernetesEvent)
        if not self._interval_seconds:
            return True
        uid = event.body.uid
        interval = self._intervals.get(uid)
        if interval is None:
            self._begin_interval(uid)
            return True
        if not interval.held_from:
            interval.held_from = revision
            self._held.append((revision, uid))
        interval.last = event
        return False

    def record_published(self, event: Event) -> None:
        """Begin a new interval for `event`, which a list showed, and drop its held repeat."""
        assert isinstance(event.body, KubernetesEvent)
        self._intervals.pop(event.body.uid, None)
        self._begin_interval(event.body.uid)

    def _begin_interval(self, uid: str) -> None:
        if self._interval_seconds and len(self._intervals) < _REMEMBERED_MAX:
            self._intervals[uid] = _Interval(self._clock.monotonic() + self._interval_seconds)

    @property
    def oldest_held_revision(self) -> int | None:
        """The oldest revision that is held back; None while there is none."""
        while self._held:
            revision, uid = self._held[0]
            interval = self._intervals.get(uid)
            if interval is not None and interval.held_from == revision:
                return revision
            self._held.popleft()
        return None

    def seconds_to_next(self) -> float | None:
        """Return the seconds until the next interval ends; None where none runs."""
        if not self._intervals:
            return None
        return max(0.0, next(iter(self._intervals.values())).ends_at - self._clock.monotonic())

    def release(self, everything: bool = False) -> list[Event]:
        """Return the repeats whose interval has ended, or all that are held."""
        released = []
        while self._intervals:
            uid, interval = next(iter(self._intervals.items()))
            if interval.ends_at > self._clock.monotonic() and not everything:
                break
            del self._intervals[uid]
            if interval.last is not None:
                released.append(interval.last)
                # A steady repeat is published once in each interval.
                if not everything:
                    self._begin_interval(uid)
        return released
