"""How far a collector is at its source, in the bucket `cursors`. One process at a time writes it.

A process that was suspended does not know, when it wakes, that another took its place. So a write
names the revision that it replaces, and the bucket refuses an older cursor that would go over a
newer one: docs/decisions/0014-a-cursor-names-what-it-replaces.md.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TypeVar

from sematext_agent.shared.bus import Bus, BusError, RevisionConflict
from sematext_agent.shared.health import Health
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.subjects import CURSORS_BUCKET

log = logging.getLogger(__name__)

T = TypeVar("T")

_FAILURES = 5  # so many may come of a broker that starts again, which is said elsewhere


class CursorConflict(RestartRequested):
    """A cursor of this process was stored by somebody else: its own may be older."""


class Cursors:
    """The cursors of one process, for its whole life."""

    def __init__(self, bus: Bus, health: Health) -> None:
        self._bus = bus
        self._health = health
        self._revisions: dict[str, int] = {}
        """By key: what this process read first, or stored last."""
        self._unanswered: dict[str, set[bytes]] = {}
        """By key: what may be stored already, because no answer came or nobody waited for it."""

    async def read(self, key: str) -> bytes | None:
        """The stored cursor; waits while the bus cannot be read.

        The first reading of a key decides what a write of it replaces. Later ones only look.
        """
        entry = await self._persist(partial(self._bus.get_entry, CURSORS_BUCKET, key))
        self._revisions.setdefault(key, entry.revision)
        return entry.value

    async def store(self, key: str, cursor: bytes) -> None:
        """Stores the cursor; waits while the bus does not take it.

        Raises:
            CursorConflict: somebody else has stored one since this process read its own.
        """
        if key not in self._revisions:
            await self.read(key)
        await self._persist(partial(self._replace, key, cursor))

    async def _replace(self, key: str, cursor: bytes) -> None:
        own = self._unanswered.setdefault(key, set())
        own.add(cursor)
        known = self._revisions[key]
        try:
            self._revisions[key] = await self._bus.replace(CURSORS_BUCKET, key, cursor, known)
        except RevisionConflict as conflict:
            found = await self._bus.get_entry(CURSORS_BUCKET, key)
            # Nobody's is lost where it is one of our own, or deleted together with its bucket. And
            # what we know already comes from a server that lags behind the one that refused.
            if found.value is not None and found.value not in own and found.revision != known:
                raise CursorConflict(
                    f"somebody else stored the cursor {key}: a second collector of this name, or "
                    "the broker was restored; the next start reads it anew"
                ) from conflict
            self._revisions[key] = found.revision
            raise  # to be tried again
        del self._unanswered[key]

    async def _persist(self, attempt: Callable[[], Awaitable[T]]) -> T:
        """What `attempt` returns, once the bus lets it; where that takes long, health says so."""
        backoff = Backoff()
        while True:
            try:
                done = await attempt()
                break
            except BusError as error:
                log.debug("%s", error)
                if backoff.failures >= _FAILURES:
                    self._health.set_condition("cursor", False, str(error))
                await asyncio.sleep(backoff.draw_delay_seconds())
        if backoff.failures > _FAILURES:
            self._health.set_condition("cursor", True, "kept")
        return done
