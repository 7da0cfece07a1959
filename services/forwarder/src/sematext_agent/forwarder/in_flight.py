"""The messages in flight: received from the stream and not acknowledged yet."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from sematext_agent.forwarder.delivery import Delivery, DeliveryState, transition
from sematext_agent.shared.bus import Message, Puller

EVENTS_MAX = 512
"""Bound of the events in flight; the others wait in the stream."""
BYTES_MAX = 16 * 1024 * 1024
"""Bound of the bytes of their messages and documents together."""


class InFlight:
    """The deliveries and possible duplicates in flight, bounded by the window of the pullers."""

    def __init__(self, puller: Puller) -> None:
        """Give `puller` the whole window."""
        self._deliveries: dict[str, Delivery] = {}
        self.possible_duplicates: dict[str, Message] = {}
        """The messages of events that another forwarder may have delivered, by id."""
        self.pullers = [puller]
        self.bytes = 0
        """Bytes of the deliveries."""
        self._update_window()

    def __iter__(self) -> Iterator[Delivery]:
        """Iterate over the deliveries, the oldest first."""
        return iter(self._deliveries.values())

    def __len__(self) -> int:
        """Return the number of deliveries."""
        return len(self._deliveries)

    def __contains__(self, message_id: str) -> bool:
        return message_id in self._deliveries

    @property
    def is_empty(self) -> bool:
        """True while nothing is in flight."""
        return not (self._deliveries or self.possible_duplicates)

    def get(self, message_id: str) -> Delivery | None:
        """Return the delivery of the event with this id, if there is one."""
        return self._deliveries.get(message_id)

    def add(self, delivery: Delivery) -> None:
        """Take in a new delivery."""
        self._deliveries[delivery.id] = delivery
        self.bytes += delivery.size_bytes
        self._update_window()

    def remove(self, delivery: Delivery) -> None:
        """End a delivery, which is acknowledged or released now."""
        transition(delivery, DeliveryState.DONE)
        del self._deliveries[delivery.id]
        self.bytes -= delivery.size_bytes
        self._update_window()

    def forget_messages(self) -> None:
        """Leave all messages to the stream: none of them is acknowledged any more.

        What is being sent remains known here, and is acknowledged by a redelivery.
        """
        self.possible_duplicates.clear()
        for delivery in self:
            delivery.messages.clear()
        self._update_window()

    def add_possible_duplicate(self, message: Message) -> None:
        """Keep `message` until the other forwarders have answered."""
        self.possible_duplicates[message.id] = message
        self._update_window()

    def remove_possible_duplicate(self, message_id: str) -> Message | None:
        """Return the message with this id, which is decided now; None where it was forgotten."""
        message = self.possible_duplicates.pop(message_id, None)
        self._update_window()
        return message

    @contextlib.contextmanager
    def share_window(self, puller: Puller) -> Iterator[None]:
        """Divide the window between `puller` and the other pullers while the block runs."""
        self.pullers.append(puller)
        self._update_window()
        try:
            yield
        finally:
            self.pullers.remove(puller)
            self._update_window()

    def _update_window(self) -> None:
        """Let the pullers ask for as much as fits, but never for a few messages at a time."""
        events = EVENTS_MAX - len(self._deliveries) - len(self.possible_duplicates)
        bytes_left = BYTES_MAX - self.bytes
        is_worthwhile = events >= EVENTS_MAX // 4 and bytes_left >= BYTES_MAX // 4
        pullers = len(self.pullers)
        for puller in self.pullers:
            # Half of the bytes are for the messages, the other half for their documents.
            puller.resize(events // pullers if is_worthwhile else 0, bytes_left // 2 // pullers)
