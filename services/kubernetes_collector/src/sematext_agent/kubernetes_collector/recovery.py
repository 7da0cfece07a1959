"""The pauses between the requests of a watch, and the judgement of a watch that ended badly."""

from __future__ import annotations

import math

from sematext_agent.kubernetes_collector.api import ApiError
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.shared.clock import Clock

PACE_SECONDS = 1.0
"""The least time between the begins of two watches."""
STALE_SECONDS = 60.0
"""The least age of the cursor at which a single short watch means that it has expired."""


class ShortWatchError(ApiError):
    """A watch that the server closed at once and empty.

    Google's front end answers so, with status 200, for a revision that the cluster has forgotten:
    https://github.com/kubernetes/kubernetes/issues/137089
    """

    def __init__(self) -> None:
        super().__init__(410, "the server closed the watch at once, without a frame")


class WatchRecovery:
    """The failures since the watch last made progress; they decide the next pause."""

    def __init__(self, retries: RetryPolicy, clock: Clock) -> None:
        self._retries = retries
        self._clock = clock
        self._backoff = retries.create_backoff()
        self._next_watch_at = -math.inf
        self._confirmed_at = -math.inf  # when the server last confirmed the cursor
        self._short_watches = 0
        self._has_listed = False  # a list, and no progress after it

    async def pace(self) -> None:
        """Wait until `PACE_SECONDS` after the begin of the watch before."""
        await self._retries.pause(self._next_watch_at - self._clock.monotonic())
        self._next_watch_at = self._clock.monotonic() + PACE_SECONDS

    def record_progress(self) -> None:
        """Forget the failures: the watch moved the cursor."""
        self._confirmed_at = self._clock.monotonic()
        self._has_listed = False
        self._short_watches = 0
        self._backoff.reset()

    def record_list(self) -> None:
        """Note that a list was read to its end: another one must wait for its turn."""
        self._confirmed_at = self._clock.monotonic()
        self._has_listed = True

    async def pause_after(self, error: ApiError) -> bool:
        """Wait as long as `error` demands; return whether the cursor has expired.

        The first list after progress need not wait.
        """
        if isinstance(error, ShortWatchError) and not self._is_expiry():
            return False
        has_expired = error.status == 410
        if not has_expired or self._has_listed:
            await self._retries.pause_after(error, self._backoff, PACE_SECONDS)
        return has_expired

    def _is_expiry(self) -> bool:
        """Count one more short watch; return whether it means that the cursor has expired."""
        self._short_watches += 1
        age_seconds = self._clock.monotonic() - self._confirmed_at
        return self._short_watches > 1 or age_seconds > STALE_SECONDS
