"""The cursors of a collector, in the bucket `cursors`. One process at a time writes each.

A process that was suspended does not know, when it wakes, that another took over. So a write names
the revision that it replaces, and the bucket refuses an older cursor that would replace a newer
one: docs/decisions/0014-a-cursor-names-what-it-replaces.md.
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sematext_agent.shared.bus import Bus, BusError, RevisionConflict
from sematext_agent.shared.health import Health
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.retry import Backoff, Uniform, retry
from sematext_agent.shared.subjects import CURSORS_BUCKET

log = logging.getLogger(__name__)

T = TypeVar("T")

# A broker that starts again causes so many failures, which its own condition reports.
_UNREPORTED_FAILURES = 5


class CursorConflict(RestartRequested):
    """A cursor of this process that another process has stored: this one's may be older."""


class Cursors:
    """The cursors of one process, for its whole life."""

    def __init__(self, bus: Bus, health: Health, uniform: Uniform | None = None) -> None:
        """Keep them on `bus`; a bus that does not take them is a condition of `health`."""
        self._bus = bus
        self._health = health
        self._uniform = uniform
        self._revisions: dict[str, int] = {}
        """By key: the revision that this process read first, or stored last."""
        self._unacknowledged: dict[str, set[bytes]] = {}
        """By key: cursors of this process that may be stored, as no acknowledgement was seen."""

    async def read(self, key: str) -> bytes | None:
        """Return the stored cursor; wait while the bus cannot be read.

        The first read of a key decides which revision a write replaces. Later reads do not.
        """
        entry = await self._persist(partial(self._bus.get_entry, CURSORS_BUCKET, key))
        self._revisions.setdefault(key, entry.revision)
        return entry.value

    async def store(self, key: str, cursor: bytes) -> None:
        """Store the cursor; wait while the bus does not take it.

        Raises:
            CursorConflict: another process stored one after this process read or stored its own.
        """
        if key not in self._revisions:
            await self.read(key)
        await self._persist(partial(self._replace, key, cursor))

    async def _replace(self, key: str, cursor: bytes) -> None:
        unacknowledged = self._unacknowledged.setdefault(key, set())
        unacknowledged.add(cursor)
        revision = self._revisions[key]
        try:
            self._revisions[key] = await self._bus.replace(CURSORS_BUCKET, key, cursor, revision)
        except RevisionConflict as conflict:
            stored = await self._bus.get_entry(CURSORS_BUCKET, key)
            # No conflict: a value of our own, one deleted together with its bucket, and the
            # revision that we have, read from a server that lags behind the one that refused.
            is_ours = stored.value is None or stored.value in unacknowledged
            if not is_ours and stored.revision != revision:
                raise CursorConflict(
                    f"another process stored the cursor {key}: there is a second collector of "
                    "this name, or the broker was restored (the next start reads it anew)"
                ) from conflict
            self._revisions[key] = stored.revision
            raise  # for another try
        del self._unacknowledged[key]

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """Return the result of `attempt` once the bus allows it; a long wait is a condition."""
        backoff = Backoff(uniform=self._uniform)

        def report(error: Exception) -> None:
            log.debug("%s", error)
            if backoff.failures >= _UNREPORTED_FAILURES:
                self._health.set_condition("cursor", False, str(error))

        result = await retry(attempt, BusError, backoff, report)
        if backoff.failures > _UNREPORTED_FAILURES:
            self._health.set_condition("cursor", True, "kept")
        return result
