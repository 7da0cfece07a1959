"""The lease on the messages in flight: until it expires, JetStream hands them to nobody else."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable

from sematext_agent.forwarder import consumers
from sematext_agent.forwarder.consumers import DurableConsumer
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

LEASE_SECONDS = consumers.ACK_WAIT_SECONDS * 2 / 3
"""Shorter than the ack deadline by a margin for what is on its way to the broker."""


class AckLease:
    """The right to send what is in flight, renewed by every answer of the broker."""

    def __init__(self, clock: Clock) -> None:
        """Begin with a lease that was renewed just now."""
        self._clock = clock
        self._renewed_at = clock.monotonic()
        self.epoch = 0
        """Rises with each expiry: deliveries of an earlier epoch are not sent any more."""

    def is_expired(self) -> bool:
        """Return whether JetStream may have handed what is in flight to another forwarder.

        Then this process was frozen or cut off from the broker, and sending could deliver an event
        a second time.
        """
        return self._clock.monotonic() - self._renewed_at > LEASE_SECONDS

    def start_epoch(self) -> None:
        """Give up all that arrived so far."""
        self.epoch += 1

    def renew(self, requested_at: float) -> None:
        """Count from `requested_at`, the monotonic seconds of a request that was answered."""
        self._renewed_at = requested_at


async def keep_lease(
    lease: AckLease,
    in_flight: InFlight,
    bus: Bus,
    consumer: DurableConsumer,
    clock: Clock,
    on_renewed: Callable[[float], None],
) -> None:
    """Extend the ack deadlines of what is in flight, and renew `lease`, for ever.

    `on_renewed` gets the monotonic seconds of the request that was answered.
    """
    reconnected = asyncio.Event()
    bus.on_reconnect(reconnected.set)
    while True:
        await wait_for_event(reconnected, consumers.ACK_WAIT_SECONDS / 3)
        reconnected.clear()
        if lease.is_expired():
            log.warning(
                "lease expired: this process was frozen or cut off from the broker (the events in "
                "flight are left to the stream)"
            )
            lease.start_epoch()
        requested_at = clock.monotonic()
        newest = requested_at - consumers.ACK_WAIT_SECONDS / 6
        for delivery in list(in_flight):
            if delivery.received_at < newest and delivery.epoch == lease.epoch:
                for message in list(delivery.messages.values()):
                    await bus.extend_ack_deadline(message)
        with contextlib.suppress(BusError):
            # The broker answers after it has handled everything sent before.
            await consumer.request_info()
            lease.renew(requested_at)
            on_renewed(requested_at)
