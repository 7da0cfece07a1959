"""New events overtake a backlog.

After an outage a million events may wait, and the durable consumer delivers them in their order. So
that new events are delivered while they are new, a second durable consumer, the overtaking one, is
created behind the last of the backlog, and events are taken from both, half and half. The first
consumer still delivers every event in the end and skips those that the overtaking one delivered. So
nothing is lost, whatever becomes of the overtaking consumer. It is deleted when the first has come
as far. Why: docs/decisions/0012.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
from collections.abc import AsyncIterator

from sematext_agent.forwarder.consumers import DurableConsumer, Info
from sematext_agent.shared.bus import Bus, BusError, JetStreamError, Message, Puller
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import OVERTAKING_CONSUMER

log = logging.getLogger(__name__)

BEHIND_EVENTS = 20_000
"""The backlog, some five seconds of work, beyond which new events do not wait for their turn."""
NEAR_EVENTS = 1000
"""The distance behind the overtaking consumer at which the first takes over again."""
STEADY_INSPECTIONS = 3
"""Inspections in a row that must have seen progress before new events overtake: a consumer created
while the receiver is unavailable would soon have a backlog of its own."""
NOTICE_SECONDS = 8.0
"""Time for every forwarder to notice the overtaking consumer before anything is taken from it. An
idle forwarder inspects every 10 s, but its last event was 10 s ago, and it was steady for 4 s."""
HANDOVER_SECONDS = 0.2
"""Delay of a message that the first consumer gives back for the overtaking one."""
_NEVER = sys.maxsize


class OvertakingConsumer:
    """The overtaking consumer, which all forwarders on the stream share; `inspect` it regularly."""

    def __init__(
        self, bus: Bus, domain: str, first_puller: Puller, health: Health, clock: Clock
    ) -> None:
        """Begin without one; `first_puller` is that of the first consumer."""
        self._bus = bus
        self._consumer = DurableConsumer(bus, OVERTAKING_CONSUMER, domain)
        self._first_puller = first_puller
        self._health = health
        self._clock = clock
        self.info: Info | None = None
        """Its information at the last inspection; None where it does not exist."""
        self._floor = -1  # the ack floor of the first consumer
        self._steady_inspections = 0
        self._noticed_at = 0.0  # monotonic seconds
        self._puller: Puller | None = None
        self._is_stopped = False
        self._has_started = asyncio.Event()
        self._start_sequence = _NEVER
        self._delivered_sequence = 0  # it has delivered everything from its start up to this

    @property
    def is_near_end(self) -> bool:
        """True while the first consumer is about to take over, so that inspections are urgent."""
        is_near = self._delivered_sequence - self._floor <= NEAR_EVENTS
        return self._start_sequence != _NEVER and is_near

    async def skip(self, message: Message) -> bool:
        """Respond to a message of the first consumer that belongs to the overtaking one.

        Returns whether it does.
        """
        if message.sequence < self._start_sequence:
            return False
        if message.sequence <= self._delivered_sequence:
            await self._bus.acknowledge(message)
        else:
            await self._bus.negative_acknowledge(message, HANDOVER_SECONDS)
        return True

    async def pullers(self) -> AsyncIterator[Puller]:
        """Yield a puller of the overtaking consumer whenever it starts, for ever."""
        while True:
            await self._has_started.wait()
            self._has_started.clear()
            if self._puller is not None:
                yield self._puller

    def stop(self) -> None:
        """Take nothing more from the overtaking consumer."""
        self._is_stopped = True
        if self._puller is not None:
            self._puller.stop()

    def forget(self) -> None:
        """Skip no event by what is known, because the stream gives its sequences out anew.

        The next inspection finds the overtaking consumer again where it still exists.
        """
        if self._start_sequence == _NEVER:
            return
        self.stop()
        self._puller, self._is_stopped = None, False
        self._start_sequence, self._delivered_sequence = _NEVER, 0
        # The first consumer may redeliver what another forwarder had from this one.
        self._first_puller.expect_redelivery()

    async def discover(self) -> None:
        """Find an overtaking consumer that exists already, before the first event is taken."""
        try:
            self._update(await self._consumer.find_info())
        except BusError as error:
            self._health.record_error(f"new events wait behind a backlog: {error}")

    async def inspect(self, stream: Info, consumer: Info) -> None:
        """Create, start or delete it, by the information about the stream and first consumer."""
        floor = consumer["ack_floor"]["stream_seq"]
        self._steady_inspections = self._steady_inspections + 1 if 0 <= self._floor < floor else 0
        self._floor = floor
        try:
            # The count includes the consumers of taps: one request more while there are any.
            has_others = stream["state"]["consumer_count"] > 1
            self._update(await self._consumer.find_info() if has_others else None)
            await self._advance(stream, consumer)
        except BusError as error:
            log.debug("%s not inspected: %s", self._consumer.name, error)
            self._steady_inspections = -STEADY_INSPECTIONS

    async def _advance(self, stream: Info, consumer: Info) -> None:
        if self._start_sequence == _NEVER:
            is_steady = self._steady_inspections >= STEADY_INSPECTIONS
            if consumer["num_pending"] > BEHIND_EVENTS and is_steady:
                await self._create(stream["state"]["last_seq"] + 1)
        elif self.is_near_end:
            if self._is_stopped and self._floor >= self._delivered_sequence:
                await self._consumer.delete()
                self._update(None)
            else:
                self.stop()
        elif not self._puller and self._clock.monotonic() > self._noticed_at + NOTICE_SECONDS:
            self._puller = self._consumer.create_puller()
            self._has_started.set()

    async def _create(self, start_sequence: int) -> None:
        # Where another forwarder created it before, its start counts.
        with contextlib.suppress(JetStreamError):
            await self._consumer.create(start_sequence, is_exclusive=True)
            log.info("new events overtake the backlog, from sequence %d on", start_sequence)

    def _update(self, info: Info | None) -> None:
        self.info = info
        if info is not None:
            if self._start_sequence == _NEVER:
                self._noticed_at = self._clock.monotonic()
            self._start_sequence = info["config"]["opt_start_seq"]
            self._delivered_sequence = max(
                self._start_sequence - 1, info["ack_floor"]["stream_seq"]
            )
        elif self._start_sequence != _NEVER:
            log.info("the backlog is delivered up to the events that overtook it")
            self.forget()
