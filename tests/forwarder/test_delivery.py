"""The states of a delivery: every transition that is not allowed raises."""

from __future__ import annotations

import itertools

import pytest

from sematext_agent.forwarder.delivery import Delivery, DeliveryState, transition
from sematext_agent.shared.bus import Message

ALLOWED = {
    (DeliveryState.RECEIVED, DeliveryState.READY),
    (DeliveryState.RECEIVED, DeliveryState.DEAD_LETTERING),
    (DeliveryState.READY, DeliveryState.SENDING),
    (DeliveryState.READY, DeliveryState.DONE),
    (DeliveryState.SENDING, DeliveryState.WAITING),
    (DeliveryState.SENDING, DeliveryState.DEAD_LETTERING),
    (DeliveryState.SENDING, DeliveryState.DONE),
    (DeliveryState.WAITING, DeliveryState.READY),
    (DeliveryState.DEAD_LETTERING, DeliveryState.DONE),
}


@pytest.fixture
def delivery() -> Delivery:
    message = Message("events.a", b"data", {}, 7, 1, 0, 0, "")
    return Delivery("id", {7: message}, b"document", 0, 1.0, 0)


@pytest.mark.parametrize(("before", "after"), list(itertools.product(DeliveryState, DeliveryState)))
def test_only_the_allowed_transitions(
    delivery: Delivery, before: DeliveryState, after: DeliveryState
) -> None:
    delivery.state = before
    if (before, after) in ALLOWED:
        transition(delivery, after)
        assert delivery.state is after
    else:
        with pytest.raises(AssertionError, match="id: "):
            transition(delivery, after)
        assert delivery.state is before


def test_every_state_can_end(delivery: Delivery) -> None:
    ends = {DeliveryState.DONE}
    for _ in DeliveryState:
        ends |= {before for before, after in ALLOWED if after in ends}
    assert ends == set(DeliveryState)


def test_it_begins_with_its_message_and_the_bytes_of_both(delivery: Delivery) -> None:
    assert delivery.state is DeliveryState.RECEIVED
    assert delivery.size_bytes == len(b"data") + len(b"document")
