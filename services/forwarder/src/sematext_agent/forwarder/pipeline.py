"""The pipeline of one forwarder, from a received message to its acknowledgement.

    intake ──> sender ──> settlement ──> acknowledgements
      │  ▲                    └────> dead letters ──┘
      ▼  │
    de-duplication

An event is acknowledged after the destination has taken it, or after it is safe as a dead letter,
never before. While it is in flight its ack deadline is extended, so that JetStream hands it to
nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.consumers import DurableConsumer
from sematext_agent.forwarder.dead_letters import DeadLetters
from sematext_agent.forwarder.deduplication import Deduplication
from sematext_agent.forwarder.delivered_ids import DeliveredIds
from sematext_agent.forwarder.destination import Destination
from sematext_agent.forwarder.flow_control import FlowControl, Uniform
from sematext_agent.forwarder.host_facts import HostFactsCache, encode_event
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.intake import Intake
from sematext_agent.forwarder.lease import AckLease, keep_lease
from sematext_agent.forwarder.metrics import DeliveryMetrics, add_figures
from sematext_agent.forwarder.sender import Sender
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.settlement import Settlement
from sematext_agent.forwarder.stream_identity import StreamIdentity
from sematext_agent.shared.bus import Puller
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import FORWARDER_CONSUMER

log = logging.getLogger(__name__)

QUIET_SECONDS = 1.0
"""Pause without a message after which a stop takes the stream for empty: the last events of
services that stop at the same time are delivered too."""


class Pipeline:
    """All parts of the delivery, and their start and end."""

    def __init__(
        self,
        runtime: Runtime[ForwarderSettings],
        puller: Puller,
        facts: HostFactsCache,
        destination: Destination,
        tasks: asyncio.TaskGroup,
        uniform: Uniform | None = None,
    ) -> None:
        """Build the parts; dead letters are stored in tasks of `tasks`."""
        settings, health, clock = runtime.settings, runtime.health, runtime.clock
        self._bus = runtime.bus
        self._clock = clock
        self._domain = settings.nats_domain
        self._lease = AckLease(clock)
        self.in_flight = InFlight(puller)
        self.flow = FlowControl(health, destination, clock, uniform)
        metrics = DeliveryMetrics(health)
        add_figures(health, self.in_flight, self.flow, clock)
        delivered_ids = DeliveredIds()
        self.identity = StreamIdentity(self._bus, self._domain, self.in_flight)
        self.identity.on_change.append(self._release)
        self._acknowledgements = Acknowledgements(self._bus, self.identity, self.in_flight, clock)
        self._dead_letters = DeadLetters(runtime, tasks, self._acknowledgements, metrics)
        self.deduplication = Deduplication(
            self._bus, self._domain, self.in_flight, delivered_ids, clock
        )
        self._sender = Sender(
            destination,
            self.flow,
            self._lease,
            self._acknowledgements,
            self.in_flight,
            metrics,
            clock,
        )
        self._settlement = Settlement(
            settings,
            clock,
            destination,
            self.flow,
            self._sender,
            delivered_ids,
            self._acknowledgements,
            self._dead_letters,
            metrics,
            uniform,
        )
        self.intake = Intake(
            partial(encode_event, destination, facts),
            self._lease,
            self.in_flight,
            self.deduplication,
            delivered_ids,
            self._sender,
            self._acknowledgements,
            self._dead_letters,
            metrics,
            clock,
            self._domain,
        )

    def start(self, tasks: asyncio.TaskGroup) -> list[asyncio.Task[None]]:
        """Start the tasks of the parts, which run for ever, and return them."""
        deduplicate = self.deduplication.run(self.intake.deliver, self.intake.acknowledge_duplicate)
        consumer = DurableConsumer(self._bus, FORWARDER_CONSUMER, self._domain)
        keep = keep_lease(
            self._lease,
            self.in_flight,
            self._bus,
            consumer,
            self._clock,
            self._acknowledgements.confirm,
        )
        return [
            tasks.create_task(self._settlement.run(), name="settlement"),
            tasks.create_task(self._acknowledgements.run(), name="acknowledgements"),
            tasks.create_task(deduplicate, name="de-duplication"),
            tasks.create_task(keep, name="lease"),
        ]

    def _release(self) -> None:
        """Leave everything in flight to the stream, unacknowledged: it is delivered again."""
        if self.in_flight.is_empty and not self._acknowledgements:
            return
        log.warning(
            "the stream counts its events anew: the broker's store was put back to a copy, or the "
            "stream was made anew (what was in flight is left to the stream)"
        )
        self._lease.start_epoch()
        self.in_flight.forget_messages()
        self._acknowledgements.forget()
        self._sender.send_ready()

    async def drain(self, seconds: float) -> None:
        """Deliver what still arrives, until nothing does, for `seconds` at most.

        Without a broker nothing more is delivered: it could not be acknowledged, and the next start
        would deliver it again.
        """
        begun = now = self._clock.monotonic()
        while now < begun + seconds and self.flow.breaker.is_closed and self._bus.is_connected:
            quiet_since = max(begun, self.intake.received_at)
            if self.in_flight.is_empty and now > quiet_since + QUIET_SECONDS:
                break
            await asyncio.sleep(0.02)
            now = self._clock.monotonic()

    async def stop(self, seconds: float) -> None:
        """End: wait `seconds` at most for answers, and give the rest back to the stream."""
        self._sender.stop()
        end = self._clock.monotonic() + seconds
        while (
            self.flow.limiter.in_flight or self._acknowledgements
        ) and self._clock.monotonic() < end:
            await asyncio.sleep(0.01)
        self._dead_letters.cancel()
        for message in list(self.in_flight.possible_duplicates.values()):
            await self._bus.negative_acknowledge(message)
        for delivery in list(self.in_flight):
            for message in delivery.messages.values():
                await self._bus.negative_acknowledge(message)
