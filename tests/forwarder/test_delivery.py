"""The states of a delivery: every transition that is not allowed raises."""

from __future__ import annotations

import itertools

import pytest

from sematext_agent.forwarder.delivery import Delivery, State, transition
from sematext_agent.shared.bus import Message

ALLOWED = {
    (State.RECEIVED, State.READY),
    (State.RECEIVED, State.DEAD_LETTERING),
    (State.READY, State.SENDING),
    (State.READY, State.DONE),
    (State.SENDING, State.WAITING),
    (State.SENDING, State.DEAD_LETTERING),
    (State.SENDING, State.DONE),
    (State.WAITING, State.READY),
    (State.DEAD_LETTERING, State.DONE),
}


@pytest.fixture
def delivery() -> Delivery:
    message = Message("events.a", b"data", {}, 7, 1, 0, 0, "")
    return Delivery(message, "id", document=b"document", received_at=1.0, epoch=0)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(State, State)))
def test_only_the_allowed_transitions(delivery: Delivery, before: State, after: State) -> None:
    delivery.state = before
    if (before, after) in ALLOWED:
        transition(delivery, after)
        assert delivery.state is after
    else:
        with pytest.raises(AssertionError, match="id: "):
            transition(delivery, after)
        assert delivery.state is before


def test_every_state_can_end(delivery: Delivery) -> None:
    ends = {State.DONE}
    for _ in State:
        ends |= {before for before, after in ALLOWED if after in ends}
    assert ends == set(State)


def test_it_begins_with_its_message_and_the_bytes_of_both(delivery: Delivery) -> None:
    assert delivery.state is State.RECEIVED
    assert list(delivery.messages) == [7]
    assert delivery.bytes == len(b"data") + len(b"document")
