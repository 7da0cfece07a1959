"""Sending: from the deliveries that are ready to the destination's answers."""

from __future__ import annotations

import asyncio
from collections import deque
from functools import partial

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.delivery import Delivery, DeliveryState, transition
from sematext_agent.forwarder.destination import Answer, Destination
from sematext_agent.forwarder.flow_control import FlowControl
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.lease import AckLease
from sematext_agent.forwarder.metrics import DeliveryMetrics
from sematext_agent.shared.clock import Clock


class Sender:
    """The deliveries that wait for being sent, and the answers to those that were sent.

    Answers come by callback and wait in `answers` for one task, so that no event has a task of its
    own, and so that a fault ends the process instead of one event's callback.
    """

    def __init__(
        self,
        destination: Destination,
        flow: FlowControl,
        lease: AckLease,
        acknowledgements: Acknowledgements,
        in_flight: InFlight,
        metrics: DeliveryMetrics,
        clock: Clock,
    ) -> None:
        """Send to `destination` as far as all of them allow it."""
        self._destination = destination
        self._flow = flow
        self._lease = lease
        self._acknowledgements = acknowledgements
        self._in_flight = in_flight
        self._metrics = metrics
        self._clock = clock
        self._ready: deque[Delivery] = deque()
        self._is_stopping = False
        self.answers: deque[tuple[Delivery, Answer]] = deque()
        self.has_answers = asyncio.Event()
        flow.on_resume = acknowledgements.on_confirmed = self.send_ready

    def send(self, delivery: Delivery) -> None:
        """Send `delivery` as soon as it may be sent."""
        transition(delivery, DeliveryState.READY)
        self._ready.append(delivery)
        self.send_ready()

    def send_again(self, delivery: Delivery, seconds: float) -> None:
        """Send `delivery` again, after a pause of `seconds`."""
        transition(delivery, DeliveryState.WAITING)
        self._metrics.retried.inc()
        asyncio.get_running_loop().call_later(seconds, self.send, delivery)

    def send_ready(self) -> None:
        """Send as many of the ready deliveries as may be sent now."""
        while self._ready and not self._is_stopping and self._may_send():
            delivery = self._ready.popleft()
            if delivery.epoch != self._lease.epoch or self._lease.is_expired():
                self._metrics.released.inc()
                self._in_flight.remove(delivery)  # JetStream redelivers it
                continue
            transition(delivery, DeliveryState.SENDING)
            self._flow.begin()
            delivery.sent_at = self._clock.monotonic()
            self._destination.send(delivery.document, partial(self._on_answer, delivery))

    def stop(self) -> None:
        """Send nothing more."""
        self._is_stopping = True
        self._flow.stop()

    def _may_send(self) -> bool:
        sending = self._flow.limiter.in_flight
        return self._flow.may_send() and self._acknowledgements.may_send(sending)

    def _on_answer(self, delivery: Delivery, answer: Answer) -> None:
        self.answers.append((delivery, answer))
        self.has_answers.set()
