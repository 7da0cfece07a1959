"""A cache of the facts about the hosts that events come from.

Every host's agent writes its facts to a bucket. They are read in the background: an event of a
host that is not cached yet goes out without facts rather than later.
"""

from __future__ import annotations

import asyncio
import logging

import msgspec

from sematext_agent.forwarder.destination import Destination
from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import Event, HostFacts
from sematext_agent.shared.subjects import HOSTS_BUCKET, bucket_key

log = logging.getLogger(__name__)

HOSTS_MAX = 10_000
"""Bound of the cache; further hosts have no facts."""
FRESH_SECONDS = 300.0
MISSING_SECONDS = 10.0
"""Pause before a host without facts is looked up again."""
_PRELOADED_HOSTS_MAX = 1000
_decoder = msgspec.json.Decoder(HostFacts)


class HostFactsCache:
    """The facts by host: `get` them for every event while `refresh` runs."""

    def __init__(self, bus: Bus, domain: str = "", clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin empty; `domain` is the JetStream domain of the bucket."""
        self._bus = bus
        self._domain = domain
        self._clock = clock
        # By key in the bucket: the facts, and until when (monotonic seconds) they count as fresh.
        self._facts: dict[str, tuple[HostFacts | None, float]] = {}
        self._keys: dict[str, str] = {}  # by origin
        self._stale_keys: asyncio.Queue[str] = asyncio.Queue(HOSTS_MAX)

    def get(self, origin: str) -> HostFacts | None:
        """Return the facts of `origin`, where they are cached."""
        stored_key = self._keys.get(origin)
        if stored_key is None:
            if len(self._keys) >= HOSTS_MAX:
                return None
            stored_key = self._keys[origin] = bucket_key(origin)
        facts, fresh_until = self._facts.get(stored_key, (None, 0.0))
        now = self._clock.monotonic()
        if now >= fresh_until and not self._stale_keys.full():
            # Fresh from now on, so that it is looked up once and not for every event.
            self._facts[stored_key] = facts, now + MISSING_SECONDS
            self._stale_keys.put_nowait(stored_key)
        return facts

    async def preload(self) -> None:
        """Read the bucket, so that the first events carry facts."""
        try:
            keys = await self._bus.keys(HOSTS_BUCKET, self._domain)
            for stored_key in keys[:_PRELOADED_HOSTS_MAX]:
                await self._read(stored_key)
        except BusError as error:
            log.debug("host facts not preloaded: %s", error)

    async def refresh(self) -> None:
        """Read the facts that `get` found missing or old, for ever."""
        while True:
            stored_key = await self._stale_keys.get()
            try:
                await self._read(stored_key)
            except BusError as error:
                log.debug("host facts not refreshed: %s", error)

    async def _read(self, stored_key: str) -> None:
        value = await self._bus.get(HOSTS_BUCKET, stored_key, self._domain)
        facts = None
        if value is not None:
            try:
                facts = _decoder.decode(value)
            except DECODE_ERRORS as error:
                log.warning("the facts of %s cannot be read: %s", stored_key, error)
        seconds = FRESH_SECONDS if facts else MISSING_SECONDS
        self._facts[stored_key] = facts, self._clock.monotonic() + seconds


def encode_event(destination: Destination, facts: HostFactsCache, event: Event) -> bytes:
    """Return the document of `event` for `destination`, with the cached facts of its host.

    Raises:
        ValueError: the event has no form at this destination.
    """
    return destination.encode(event, facts.get(event.origin))
