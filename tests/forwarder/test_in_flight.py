"""The messages in flight, their bounds, and the window that the pullers share."""

from __future__ import annotations

from typing import Any

import pytest

from sematext_agent.forwarder.delivery import Delivery, DeliveryState, transition
from sematext_agent.forwarder.in_flight import BYTES_MAX, EVENTS_MAX, InFlight
from sematext_agent.shared.bus import Message


class WindowProbe:
    """Stands for a puller that keeps its last window: messages and bytes."""

    def __init__(self) -> None:
        self.size = (0, 0)

    def resize(self, window: int, bytes_max: int = 0) -> None:
        self.size = window, bytes_max


def a_message(number: int, data: bytes = b"") -> Message:
    return Message("events.a", data, {"Nats-Msg-Id": str(number)}, number, 1, 0, 0, "")


def a_delivery(number: int, data: bytes = b"") -> Delivery:
    delivery = Delivery(str(number), {number: a_message(number, data)}, b"", 0, 0.0, 0)
    transition(delivery, DeliveryState.READY)
    return delivery


@pytest.fixture
def window() -> WindowProbe:
    return WindowProbe()


@pytest.fixture
def in_flight(window: WindowProbe) -> InFlight:
    puller: Any = window
    return InFlight(puller)


def test_the_whole_window_at_first(in_flight: InFlight, window: WindowProbe) -> None:
    assert window.size == (EVENTS_MAX, BYTES_MAX // 2)
    assert in_flight.is_empty


def test_deliveries_and_possible_duplicates_narrow_the_window(
    in_flight: InFlight, window: WindowProbe
) -> None:
    in_flight.add(a_delivery(1, b"x" * 100))
    in_flight.add_possible_duplicate(a_message(2))
    assert window.size == (EVENTS_MAX - 2, (BYTES_MAX - 100) // 2)
    assert not in_flight.is_empty
    assert "1" in in_flight
    in_flight.remove_possible_duplicate("2")
    delivery = in_flight.get("1")
    assert delivery is not None
    in_flight.remove(delivery)
    assert delivery.state is DeliveryState.DONE
    assert window.size == (EVENTS_MAX, BYTES_MAX // 2)
    assert in_flight.is_empty


@pytest.mark.parametrize("data", [b"", b"x" * (BYTES_MAX // EVENTS_MAX + 1)])
def test_the_window_closes_before_only_a_few_fit(
    in_flight: InFlight, window: WindowProbe, data: bytes
) -> None:
    for number in range(EVENTS_MAX * 3 // 4):
        in_flight.add(a_delivery(number, data))
    assert (window.size[0] == 0) == bool(data)
    in_flight.add(a_delivery(EVENTS_MAX, data))
    assert window.size[0] == 0


def test_two_pullers_share_the_window(in_flight: InFlight, window: WindowProbe) -> None:
    second: Any = WindowProbe()
    with in_flight.share_window(second):
        assert window.size == second.size == (EVENTS_MAX // 2, BYTES_MAX // 4)
    assert window.size == (EVENTS_MAX, BYTES_MAX // 2)


def test_a_delivery_that_is_not_finished_cannot_be_removed(in_flight: InFlight) -> None:
    delivery = a_delivery(1)
    in_flight.add(delivery)
    transition(delivery, DeliveryState.SENDING)
    transition(delivery, DeliveryState.WAITING)
    with pytest.raises(AssertionError):
        in_flight.remove(delivery)
    assert "1" in in_flight
