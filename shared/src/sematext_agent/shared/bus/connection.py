"""The connection to the broker: opened, kept for ever, and watched.

By default nats-py 2.16 gives up reconnecting and closes for good. Here it never does, and where its
client is closed or its reader has ended all the same, `Connection.watch` raises, so that the
process is started anew.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable
from typing import Any

import nats.errors

from sematext_agent.shared.bus.client import TolerantClient
from sematext_agent.shared.bus.errors import ConnectionLost
from sematext_agent.shared.bus.problems import (
    describe_problem,
    find_violation,
    is_inbox_revoked,
)
from sematext_agent.shared.bus.tls import tls_context
from sematext_agent.shared.logs import RepeatFilter
from sematext_agent.shared.retry import Backoff, Uniform, retry
from sematext_agent.shared.settings import ServiceSettings, redact_userinfo
from sematext_agent.shared.subjects import inbox_prefix
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

_PENDING_BYTES_MAX = 8 * 1024 * 1024
WATCH_SECONDS = 1.0
_UNREPORTED_FAILURES = 3


class Connection:
    """The client, its state, and the callbacks by which others learn of a change."""

    def __init__(self, client: TolerantClient, uniform: Uniform | None = None) -> None:
        """Take a `client` that is not connected; `uniform` is for the backoffs."""
        self.client = client
        self.uniform = uniform
        self.connected = asyncio.Event()
        self.reconnected_at = -math.inf
        """Seconds of the loop's clock at the last reconnect."""
        self.disconnect_callbacks: list[Callable[[], None]] = []
        self.reconnect_callbacks: list[Callable[[], None]] = []
        self.on_change: Callable[[bool], None] = lambda up: None
        """Called before the callbacks, with True after a reconnect and False after a loss."""
        self.on_problem: Callable[[str], None] = lambda text: None
        """Called with a problem that only a person can solve."""
        self.on_forbidden_publish: Callable[[str, str], None] = lambda subject, text: None
        """Called with the subject, in small letters, and the problem."""
        self._on_failed_attempt: Callable[[Exception], None] = lambda error: None
        """Called with a failure that waiting may end, until the first connection."""
        self._user = ""
        self._closed = asyncio.Event()
        self._inbox_revoked = False
        self._repeats = RepeatFilter()

    async def open(self, settings: ServiceSettings, name: str) -> None:
        """Connect to the broker, waiting for as long as it takes.

        `connected` stays clear until the caller is ready for the first publish.

        Raises:
            SettingsError: the address, or a file of keys and certificates, cannot be used at all.
        """
        self._user = settings.nats_user
        options = self._options(settings, name)
        servers = ", ".join(map(redact_userinfo, settings.nats_url))
        backoff = Backoff(0.1, 5, self.uniform)
        failures, now = 0, asyncio.get_running_loop().time

        def report(error: Exception) -> None:
            nonlocal failures
            failures += 1
            reason = describe_problem(error, self._user) or str(error) or type(error).__name__
            if failures >= _UNREPORTED_FAILURES and self._repeats.passes(reason, now()):
                log.info("waiting for the broker at %s: %s", servers, reason)

        errors = (nats.errors.Error, OSError, TimeoutError)
        # A client that never gives up hands its failures to the callback, and raises none.
        self._on_failed_attempt = report
        await retry(lambda: self.client.connect(**options), errors, backoff, report)
        self._on_failed_attempt = lambda error: None

    def _options(self, settings: ServiceSettings, name: str) -> dict[str, Any]:
        return {
            "servers": list(settings.nats_url),
            "name": name,
            "error_cb": self._on_error,
            "disconnected_cb": self._on_disconnect,
            "reconnected_cb": self._on_reconnect,
            "closed_cb": self._on_close,
            "allow_reconnect": True,
            "max_reconnect_attempts": -1,
            "reconnect_time_wait": 0.5,
            "connect_timeout": 5,
            "ping_interval": 10,
            "max_outstanding_pings": 2,
            "pending_size": _PENDING_BYTES_MAX,
            "tls": tls_context(settings),
            "user": settings.nats_user or None,
            "password": settings.nats_password.reveal() or None,
            "inbox_prefix": inbox_prefix(settings.nats_user),
        }

    async def watch(self) -> None:
        """Watch the client; never return.

        Raises:
            ConnectionLost: the client is closed for good, or its reader has ended.
        """
        reader_ended_before = False
        while not await wait_for_event(self._closed, WATCH_SECONDS):
            if self._inbox_revoked:
                # The broker returns the permission without the subscription, so make it anew.
                self._inbox_revoked = False
                await self.client.force_reconnect()
            reader = self.client._reading_task  # noqa: SLF001 - there is no public sign of it
            reader_ended = self.client.is_connected and reader is not None and reader.done()
            if reader_ended and reader_ended_before:
                raise ConnectionLost("the reader of the bus has ended")
            reader_ended_before = reader_ended
        raise ConnectionLost(f"the broker closed the connection: {self.client.last_error}")

    # The client's callbacks. One that raises would end its reconnecting, so they set and call only.

    async def _on_error(self, error: Exception) -> None:
        log.debug("bus: %s", error)
        self._inbox_revoked |= is_inbox_revoked(error)
        if not (text := describe_problem(error, self._user)):
            self._on_failed_attempt(error)
            return
        if self._repeats.passes(text, asyncio.get_running_loop().time()):
            self.on_problem(text)
        violation = find_violation(error)
        if violation and violation[0] == "publish":
            self.on_forbidden_publish(violation[1], text)

    async def _on_disconnect(self) -> None:
        self.connected.clear()
        self.client.discard_pending()
        self.on_change(False)
        for callback in self.disconnect_callbacks:
            callback()

    async def _on_reconnect(self) -> None:
        self.reconnected_at = asyncio.get_running_loop().time()
        self.connected.set()
        self.on_change(True)
        for callback in list(self.reconnect_callbacks):
            callback()

    async def _on_close(self) -> None:
        self._closed.set()
