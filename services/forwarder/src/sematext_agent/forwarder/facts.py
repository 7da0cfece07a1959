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
from sematext_agent.shared.decoding import UNREADABLE
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.subjects import HOSTS, key

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
        bucket_key = self._keys.get(origin)
        if bucket_key is None:
            if len(self._keys) >= HOSTS_MAX:
                return None
            bucket_key = self._keys[origin] = key(origin)
        facts, fresh_until = self._known.get(bucket_key, (None, 0.0))
        now = time.monotonic()
        if now >= fresh_until and not self._wanted.full():
            # Marked as fresh at once, so that it is asked for once and not by every event.
            self._known[bucket_key] = facts, now + MISSING_SECONDS
            self._wanted.put_nowait(bucket_key)
        return facts

    async def preload(self) -> None:
        """Reads what the bucket holds already, so that the first events carry it."""
        try:
            for bucket_key in (await self._bus.keys(HOSTS, self._domain))[:_FIRST_HOSTS_MAX]:
                await self._read(bucket_key)
        except BusError as error:
            log.debug("%s", error)

    async def refresh(self) -> None:
        """Reads what `of` found missing or old, for ever."""
        while True:
            bucket_key = await self._wanted.get()
            try:
                await self._read(bucket_key)
            except BusError as error:
                log.debug("%s", error)

    async def _read(self, bucket_key: str) -> None:
        value = await self._bus.get(HOSTS, bucket_key, self._domain)
        facts = None
        if value is not None:
            try:
                facts = _decoder.decode(value)
            except UNREADABLE as error:
                log.warning("the facts of %s cannot be read: %s", bucket_key, error)
        seconds = FRESH_SECONDS if facts else MISSING_SECONDS
        self._known[bucket_key] = facts, time.monotonic() + seconds
