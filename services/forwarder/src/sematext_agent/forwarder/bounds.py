"""What happens where a stream beside that of events comes to its bound: it is never silent.

The oldest dead letters go when there is no room for the newest. How many went is counted, and told
as a gap. A bucket is different: a cursor that cannot be stored would be missing at the next start,
so the buckets grow while the broker's disk lets them.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.events import Event, Gap, encode, event_id, format_rfc3339
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    subject_of,
)

Info = dict[str, Any]

TELL_SECONDS_MIN = 60.0
"""So long lies between two gaps about dead letters."""
GROW_SECONDS = 60.0
"""How often the buckets are looked at."""
_FULL = 0.9
_GROW_AT = 0.5

log = logging.getLogger(__name__)


class Bounds:
    """Looks at the bounds of the stream DEAD and of the buckets, and says what comes of them."""

    def __init__(self, bus: Bus, health: Health) -> None:
        self._bus = bus
        self._health = health
        self._first = 0  # the oldest dead letter, by its number in the stream
        self._since = 0  # when the ones that went were counted from, in nanoseconds since the epoch
        self._lost = 0  # and not told yet
        self._tell_at = self._grow_at = 0.0  # monotonic seconds
        self._dropped = health.add_counter(
            "dead_letters_dropped", "Dead letters gone for newer ones."
        )

    async def look(self, dead: Info) -> None:
        """Acts on what `dead` says, the information about the stream DEAD, and on the buckets.

        Raises:
            BusError: the bus does not answer; the next look does what is left.
        """
        self._count(dead)
        now = time.monotonic()
        if self._lost and now >= self._tell_at and await self._tell():
            self._tell_at = now + TELL_SECONDS_MIN
        if now >= self._grow_at:
            for bucket in (CURSORS_BUCKET, HOSTS_BUCKET):
                await self._grow(f"KV_{bucket}")
            self._grow_at = now + GROW_SECONDS

    def _count(self, dead: Info) -> None:
        state, bytes_max = dead["state"], dead["config"]["max_bytes"]
        before, self._first = self._first, state["first_seq"]
        # A full stream alone drops; where there is room somebody has removed or replayed them.
        if before and self._first > before and state["bytes"] > _FULL * bytes_max:
            gone = self._first - before
            self._since = self._since or time.time_ns()
            self._lost += gone
            self._dropped.inc(gone)

    async def _tell(self) -> bool:
        """Publishes the gap; whether it is safe."""
        detail = (
            "the oldest dead letters went because the stream DEAD is full; see what is refused "
            "with `agentctl dead list`, or set DEAD_BYTES_MAX higher"
        )
        until = format_rfc3339(time.time_ns())
        gap = Event(
            # By what is the oldest now: of several forwarders each would tell the same.
            id=event_id(FORWARDER_CONSUMER, "dead letters", self._first),
            time=until,
            origin=self._health.origin,
            agent=AGENT_VERSION,
            body=Gap(
                source=FORWARDER_CONSUMER,
                reason="dead_letters_full",
                since=format_rfc3339(self._since),
                until=until,
                detail=detail,
                lost=self._lost,
            ),
        )
        try:
            await self._bus.publish(subject_of(gap), encode(gap), gap.id)
        except BusError as error:  # such as a full stream: the next look tells it
            log.debug("a gap is not safe yet: %s", error)
            return False
        self._health.record_error(f"{self._lost} dead letters are gone: {detail}")
        self._lost = self._since = 0
        return True

    async def _grow(self, name: str) -> None:
        """Doubles a bucket that is half full."""
        stream = await self._bus.request_api(f"STREAM.INFO.{name}")
        config, used = stream["config"], stream["state"]["bytes"]
        if used < _GROW_AT * config["max_bytes"]:
            return
        try:
            larger = config | {"max_bytes": 2 * config["max_bytes"]}
            await self._bus.request_api(f"STREAM.UPDATE.{name}", larger)
            log.info("doubled the bucket %s to %d bytes", name, larger["max_bytes"])
        except BusError as error:
            self._health.record_error(
                f"{name} has {used} bytes and cannot grow: {error}; make room"
            )
