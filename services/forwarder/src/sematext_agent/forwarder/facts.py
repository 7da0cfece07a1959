"""What is known of the hosts that events come from, kept at hand.

Every host's agent writes its facts to a bucket. They are read in the background: an event whose
host is not known yet goes out without them rather than later.
"""

from __future__ import annotations

import asyncio
import logging
import time

import msgspec

from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.subjects import HOSTS_BUCKET, bucket_key

log = logging.getLogger(__name__)

HOSTS_MAX = 10_000
"""So many hosts are remembered; beyond that their facts are left out."""
FRESH_SECONDS = 300.0
MISSING_SECONDS = 10.0
"""How soon a host without facts is looked up again."""
_FIRST_HOSTS_MAX = 1000
_decoder = msgspec.json.Decoder(HostFacts)


class Facts:
    """`of(origin)` for every event, and `refresh` as a task beside it."""

    def __init__(self, bus: Bus, domain: str = "") -> None:
        self._bus = bus
        self._domain = domain
        # By key in the bucket: the facts, and until when (monotonic seconds) they count as fresh.
        self._known: dict[str, tuple[HostFacts | None, float]] = {}
        self._keys: dict[str, str] = {}  # by origin
        self._wanted: asyncio.Queue[str] = asyncio.Queue(HOSTS_MAX)

    def of(self, origin: str) -> HostFacts | None:
        """The facts of `origin`, as far as they are known now."""
        stored_key = self._keys.get(origin)
        if stored_key is None:
            if len(self._keys) >= HOSTS_MAX:
                return None
            stored_key = self._keys[origin] = bucket_key(origin)
        facts, fresh_until = self._known.get(stored_key, (None, 0.0))
        now = time.monotonic()
        if now >= fresh_until and not self._wanted.full():
            # Marked as fresh at once, so that it is asked for once and not by every event.
            self._known[stored_key] = facts, now + MISSING_SECONDS
            self._wanted.put_nowait(stored_key)
        return facts

    async def preload(self) -> None:
        """Reads what the bucket holds already, so that the first events carry it."""
        try:
            for stored_key in (await self._bus.keys(HOSTS_BUCKET, self._domain))[:_FIRST_HOSTS_MAX]:
                await self._read(stored_key)
        except BusError as error:
            log.debug("%s", error)

    async def refresh(self) -> None:
        """Reads what `of` found missing or old, for ever."""
        while True:
            stored_key = await self._wanted.get()
            try:
                await self._read(stored_key)
            except BusError as error:
                log.debug("%s", error)

    async def _read(self, stored_key: str) -> None:
        value = await self._bus.get(HOSTS_BUCKET, stored_key, self._domain)
        facts = None
        if value is not None:
            try:
                facts = _decoder.decode(value)
            except DECODE_ERRORS as error:
                log.warning("the facts of %s cannot be read: %s", stored_key, error)
        seconds = FRESH_SECONDS if facts else MISSING_SECONDS
        self._known[stored_key] = facts, time.monotonic() + seconds
