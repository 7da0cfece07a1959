"""Growth of the buckets, while the broker's disk has space.

A cursor that cannot be stored would be missing at the next start of its collector.
"""

from __future__ import annotations

import logging

from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import CURSORS_BUCKET, HOSTS_BUCKET

log = logging.getLogger(__name__)

INSPECT_SECONDS = 60.0
"""Pause between two inspections."""
GROW_AT = 0.5
"""The share of its bytes from which a bucket grows."""


class BucketGrowth:
    """The bounds of the buckets of cursors and of host facts."""

    def __init__(self, bus: Bus, health: Health, clock: Clock) -> None:
        """Inspect the buckets at the first call."""
        self._bus = bus
        self._health = health
        self._clock = clock
        self._inspect_at = 0.0  # monotonic seconds

    async def inspect(self) -> None:
        """Double each bucket that is half full, where the last inspection is old enough.

        Raises:
            BusError: the bus does not answer; the next call does the same.
        """
        now = self._clock.monotonic()
        if now >= self._inspect_at:
            for bucket in (CURSORS_BUCKET, HOSTS_BUCKET):
                await self._grow(f"KV_{bucket}")
            self._inspect_at = now + INSPECT_SECONDS

    async def _grow(self, name: str) -> None:
        stream = await self._bus.request_api(f"STREAM.INFO.{name}")
        config, used_bytes = stream["config"], stream["state"]["bytes"]
        if used_bytes < GROW_AT * config["max_bytes"]:
            return
        try:
            larger = config | {"max_bytes": 2 * config["max_bytes"]}
            await self._bus.request_api(f"STREAM.UPDATE.{name}", larger)
            log.info("doubled the bucket %s to %d bytes", name, larger["max_bytes"])
        except BusError as error:
            self._health.record_error(
                f"{name} has {used_bytes} bytes and cannot grow: {error}; make room"
            )
