"""The intake: from a message of the stream to a delivery."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import msgspec

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.dead_letters import DeadLetters, excerpt, fallback_id
from sematext_agent.forwarder.deduplication import Deduplication
from sematext_agent.forwarder.delivered_ids import DeliveredIds
from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.lease import AckLease
from sematext_agent.forwarder.metrics import DeliveryMetrics
from sematext_agent.forwarder.sender import Sender
from sematext_agent.shared.bus import Message, Puller
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import Event, NewerEventError, decode, parse_rfc3339

_UPGRADE = "upgrade this forwarder, then `agentctl dead replay` sends it"


@dataclass(slots=True)
class Intake:
    """The first step of every delivery: lease, de-duplication, decoding.

    A new delivery goes to `sender`, or to `dead_letters` where it cannot be decoded.
    """

    encode: Callable[[Event], bytes]
    """Returns the document of an event."""
    lease: AckLease
    in_flight: InFlight
    deduplication: Deduplication
    delivered_ids: DeliveredIds
    sender: Sender
    acknowledgements: Acknowledgements
    dead_letters: DeadLetters
    metrics: DeliveryMetrics
    clock: Clock
    domain: str = ""
    """The JetStream domain of the stream of events."""
    received_at: float = 0.0
    """Monotonic seconds of the last message."""

    def receive(self, message: Message, puller: Puller) -> None:
        """Deliver `message` of `puller`, unless another forwarder has delivered its event."""
        if self.lease.is_expired():  # it may have arrived before this process was frozen
            self.metrics.released.inc()
            return
        self.received_at = self.clock.monotonic()
        if not self.deduplication.defer(message, puller):
            self.deliver(message)

    def deliver(self, message: Message) -> None:
        """Deliver `message`, unless this forwarder has delivered its event or is delivering it."""
        try:
            event = decode(message.data)
            time_ns = parse_rfc3339(event.time)
            document = self.encode(event)
        except NewerEventError as error:
            self._dead_letter(message, "newer", f"{error}: {_UPGRADE}")
            return
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            detail = f"cannot be decoded: {error}; it begins with {excerpt(message.data)}"
            self._dead_letter(message, "undecodable", detail)
            return
        # The message's id before the event's: a dead letter is replayed under an id of its own.
        message_id = message.id or event.id
        if message_id in self.delivered_ids:
            self.acknowledge_duplicate(message)
        elif (delivery := self.in_flight.get(message_id)) is not None:
            self.metrics.deduplicated.inc()
            delivery.messages[message.sequence] = message
        else:
            delivery = self._create(message, message_id, document, time_ns)
            self.in_flight.add(delivery)
            self.sender.send(delivery)

    def acknowledge_duplicate(self, message: Message) -> None:
        """Acknowledge `message` unsent, because its event was delivered."""
        self.metrics.deduplicated.inc()
        self.acknowledgements.add(message)

    def _dead_letter(self, message: Message, reason: str, detail: str) -> None:
        delivery = self._create(message, fallback_id(message, self.domain))
        if delivery.id not in self.in_flight:
            self.in_flight.add(delivery)
            self.dead_letters.add(delivery, 0, detail, reason)

    def _create(
        self, message: Message, message_id: str, document: bytes = b"", time_ns: int = 0
    ) -> Delivery:
        messages, now = {message.sequence: message}, self.clock.monotonic()
        return Delivery(message_id, messages, document, time_ns, now, self.lease.epoch)
