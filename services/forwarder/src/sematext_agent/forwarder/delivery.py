"""The delivery of one event: its state, and the transitions that are allowed.

RECEIVED ──> READY ──> SENDING ──> DONE, from READY where the lease expired
   │           ^        │   └────> DEAD_LETTERING ──> DONE
   │           └ WAITING ┘               ^
   └─────────────────────────────────────┘
"""

from __future__ import annotations

import enum
from dataclasses import dataclass, field

from sematext_agent.shared.bus import Message
from sematext_agent.shared.retry import Backoff


class DeliveryState(enum.Enum):
    """The states of a delivery."""

    RECEIVED = "received"
    """Its message arrived from the stream."""
    READY = "ready"
    """It waits until the flow control lets it be sent."""
    SENDING = "sending"
    """The destination has not answered yet."""
    WAITING = "waiting"
    """A timer will make it ready again."""
    DEAD_LETTERING = "dead-lettering"
    """It is being stored in the dead-letter stream."""
    DONE = "done"
    """It was acknowledged, or released to the stream."""


_NEXT_STATES = {
    DeliveryState.RECEIVED: (DeliveryState.READY, DeliveryState.DEAD_LETTERING),
    DeliveryState.READY: (DeliveryState.SENDING, DeliveryState.DONE),
    DeliveryState.SENDING: (
        DeliveryState.DONE,
        DeliveryState.WAITING,
        DeliveryState.DEAD_LETTERING,
    ),
    DeliveryState.WAITING: (DeliveryState.READY,),
    DeliveryState.DEAD_LETTERING: (DeliveryState.DONE,),
    DeliveryState.DONE: (),
}


@dataclass(slots=True, eq=False)
class Delivery:
    """One event on its way to the destination."""

    id: str
    messages: dict[int, Message]
    """All messages that hold this event, by their sequence; they are acknowledged together."""
    document: bytes
    event_time_ns: int
    """The time of the event at its source, in nanoseconds since the epoch."""
    received_at: float
    """Monotonic seconds."""
    epoch: int
    """The epoch of the lease under which its message arrived."""
    state: DeliveryState = DeliveryState.RECEIVED
    sent_at: float = 0.0
    """Monotonic seconds of the last attempt."""
    backoff: Backoff | None = None
    was_refused: bool = False
    size_bytes: int = field(init=False)
    """Bytes of its first message and its document."""

    def __post_init__(self) -> None:
        (message,) = self.messages.values()
        self.size_bytes = len(message.data) + len(self.document)


def transition(delivery: Delivery, state: DeliveryState) -> None:
    """Move `delivery` to `state`.

    Raises:
        AssertionError: its present state does not allow that.
    """
    assert state in _NEXT_STATES[delivery.state], f"{delivery.id}: {delivery.state} to {state}"
    delivery.state = state
