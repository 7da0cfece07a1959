"""The policy after a failed request: the pause, and the health of the service meanwhile."""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable
from typing import TypeVar

from sematext_agent.kubernetes_collector.api import ApiError
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff, Uniform
from sematext_agent.shared.waiting import wait_for_event

T = TypeVar("T")

DENIED_SECONDS = 60
"""The pause after 403, which lasts until somebody grants the permission."""


class RetryPolicy:
    """The pauses after failed requests, and the condition `cluster` of the service's health."""

    def __init__(
        self, health: Health, stopping: asyncio.Event, uniform: Uniform | None = None
    ) -> None:
        """Report to `health`; `uniform` replaces `random.uniform`."""
        self._health = health
        self._stopping = stopping
        self._uniform = uniform
        self._failures = health.add_counter("api_failures", "Failed API requests.", "status")
        self._namespace = ""
        self._failing: dict[str, str] = {}  # the failure in each namespace

    def for_namespace(self, namespace: str) -> RetryPolicy:
        """Return a policy for the requests of one of several namespaces.

        The condition `cluster` holds while the requests of all of them succeed.
        """
        policy = copy.copy(self)
        policy._namespace = namespace  # noqa: SLF001
        return policy

    def create_backoff(self) -> Backoff:
        """Return a new backoff for the failures of one request."""
        return Backoff(0.2, 30, self._uniform)

    def report_success(self, detail: str) -> None:
        """Set the condition `cluster` to true, unless the requests of another namespace fail."""
        self._failing.pop(self._namespace, None)
        failing = next(iter(self._failing.values()), None)
        self._health.set_condition("cluster", failing is None, failing or detail)

    async def pause_after(self, error: ApiError, backoff: Backoff, seconds_min: float = 0) -> None:
        """Report `error`, and wait until the request may be sent again or the service stops."""
        self._failures.labels(str(error.status)).inc()
        rules = ": deploy/kubernetes has the rules" if error.status == 403 else ""
        self._report_failure(f"{error}{rules}")
        seconds = DENIED_SECONDS if error.status == 403 else backoff.draw_delay_seconds()
        await self.pause(max(seconds, error.retry_after, seconds_min))

    def _report_failure(self, detail: str) -> None:
        self._health.last_error = detail
        namespace = f"namespace {self._namespace}: " if self._namespace else ""
        self._failing[self._namespace] = namespace + detail
        self._health.set_condition("cluster", False, self._failing[self._namespace])

    async def pause(self, seconds: float) -> None:
        """Wait for `seconds`, or until the service stops."""
        if seconds > 0:
            await wait_for_event(self._stopping, seconds)

    async def retry(self, attempt: Callable[[], Awaitable[T]]) -> T | None:
        """Return the result of `attempt`, repeated while it fails; None when the service stops.

        Raises:
            ApiError: status 410, which a retry does not mend.
        """
        backoff = self.create_backoff()
        while not self._stopping.is_set():
            try:
                result = await attempt()
                self._failing.pop(self._namespace, None)
                return result
            except ApiError as error:
                if error.status == 410:
                    raise
                await self.pause_after(error, backoff)
        return None
