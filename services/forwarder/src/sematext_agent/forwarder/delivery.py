"""The delivery of one event: its state, and the transitions that are allowed.

RECEIVED ──> READY ──> SENDING ──> DONE
   │           ^          │ └────> DEAD_LETTERING ──> DONE
   │           └─ WAITING <┘              ^
   └──────────────────────────────────────┘
"""

from __future__ import annotations

import enum

from sematext_agent.shared.bus import Message
from sematext_agent.shared.retry import Backoff


class State(enum.Enum):
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
    State.RECEIVED: (State.READY, State.DEAD_LETTERING),
    State.READY: (State.SENDING, State.DONE),
    State.SENDING: (State.DONE, State.WAITING, State.DEAD_LETTERING),
    State.WAITING: (State.READY,),
    State.DEAD_LETTERING: (State.DONE,),
    State.DONE: (),
}


class Delivery:
    """One event on its way to the destination."""

    __slots__ = (
        "backoff",
        "bytes",
        "document",
        "epoch",
        "event_time_ns",
        "id",
        "messages",
        "received_at",
        "sent_at",
        "state",
        "was_refused",
    )

    def __init__(
        self,
        message: Message,
        message_id: str,
        *,
        document: bytes = b"",
        event_time_ns: int = 0,
        received_at: float,
        epoch: int,
    ) -> None:
        """Begin in the state RECEIVED."""
        self.state = State.RECEIVED
        self.id = message_id
        self.messages = {message.sequence: message}
        """All messages that hold this event, by their sequence; they are acknowledged together."""
        self.document = document
        self.bytes = len(message.data) + len(document)
        self.event_time_ns = event_time_ns
        """The time of the event at its source, in nanoseconds since the epoch."""
        self.received_at = received_at
        """Monotonic seconds."""
        self.sent_at = 0.0
        """Monotonic seconds of the last attempt."""
        self.epoch = epoch
        """The epoch of the lease under which its message arrived."""
        self.backoff: Backoff | None = None
        self.was_refused = False


def transition(delivery: Delivery, state: State) -> None:
    """Move `delivery` to `state`.

    Raises:
        AssertionError: its present state does not allow that.
    """
    assert state in _NEXT_STATES[delivery.state], f"{delivery.id}: {delivery.state} to {state}"
    delivery.state = state
