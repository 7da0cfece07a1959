"""Flow control in virtual time: how many sends at once, when, and whether at all."""

from __future__ import annotations

import pytest
from forwarder.virtual_flow import VirtualFlow
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.circuit_breaker import FAILURES_MAX, REFUSALS_MAX, Circuit
from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX
from sematext_agent.forwarder.destination import Answer


@pytest.fixture
def flow() -> VirtualFlow:
    return VirtualFlow()


def test_no_more_at_once_than_the_limit(flow: VirtualFlow) -> None:
    flow.control.limiter.limit = 3
    for _ in range(3):
        assert flow.control.may_send()
        flow.control.begin()
    assert not flow.control.may_send()
    flow.end(Answer(200))
    assert flow.control.may_send()


def test_retry_after_holds_everything_and_health_shows_it(flow: VirtualFlow) -> None:
    flow.send(Answer(429, retry_after=5))
    assert not flow.control.may_send()
    assert flow.condition == (False, "http://r throttled for 5 s, answered 429")
    flow.send(Answer(200))  # one that was in flight: the pause stays
    assert not flow.control.may_send()
    assert not flow.condition[0]
    flow.clock.advance(4.9)
    assert not flow.control.may_send()
    assert flow.resumed == 0
    flow.clock.advance(0.1)
    assert flow.control.may_send()
    assert flow.resumed == 1
    flow.send(Answer(200))
    assert flow.condition == (True, "http://r takes events")


def test_retry_after_is_obeyed_for_an_hour_at_most(flow: VirtualFlow) -> None:
    flow.send(Answer(503, retry_after=1e9))
    assert flow.control.throttle.until - flow.clock.now == 3600


@pytest.mark.parametrize(
    ("answer", "sends"),
    [
        (Answer(403), 1),
        (Answer(301), 1),
        (Answer(0, problem="refused"), FAILURES_MAX),
        (Answer(500), FAILURES_MAX),
        (Answer(400), REFUSALS_MAX),
    ],
)
def test_an_open_circuit_lets_one_probe_at_a_time_and_closes_after_a_delivery(
    flow: VirtualFlow, answer: Answer, sends: int
) -> None:
    for _ in range(sends):
        assert flow.circuit() is Circuit.CLOSED
        flow.send(answer)
    for pause_seconds in (1, 2):
        assert flow.circuit() is Circuit.OPEN
        assert not flow.condition[0]
        assert not flow.control.may_send()
        flow.clock.advance(pause_seconds)
        assert flow.circuit() is Circuit.HALF_OPEN
        assert flow.control.may_send()
        flow.control.begin()
        assert not flow.control.may_send()
        flow.end(answer)
    flow.clock.advance(4)
    flow.send(Answer(200))
    assert flow.circuit() is Circuit.CLOSED
    assert flow.condition == (True, "http://r takes events")
    flow.control.begin()
    assert flow.control.may_send()


def test_sends_in_flight_when_the_circuit_opens_are_one_failure(flow: VirtualFlow) -> None:
    for _ in range(10):
        flow.control.begin()
    for _ in range(9):
        flow.end(Answer(403))
    assert flow.control.breaker._backoff.failures == 1


def test_the_pauses_between_probes_grow(flow: VirtualFlow) -> None:
    pauses = []
    for _ in range(8):
        flow.send(Answer(401))
        pauses.append(round(flow.control.throttle.until - flow.clock.now))
        flow.clock.advance(pauses[-1])
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


def test_a_success_between_failures_keeps_the_circuit_closed(flow: VirtualFlow) -> None:
    for _ in range(3):
        for answer in (*[Answer(500)] * (FAILURES_MAX - 1), Answer(200)):
            flow.send(answer)
        for answer in (*[Answer(400)] * (REFUSALS_MAX - 1), Answer(200)):
            flow.send(answer)
    assert flow.control.breaker.is_closed


def test_a_stopped_flow_resumes_nothing(flow: VirtualFlow) -> None:
    flow.send(Answer(429, retry_after=1))
    flow.control.stop()
    flow.clock.advance(10)
    assert flow.resumed == 0


@given(st.lists(st.sampled_from([0, 200, 400, 403, 429, 500]), max_size=60))
def test_bounds_hold_under_any_answers(statuses: list[int]) -> None:
    """The limit stays within its bounds, in_flight is right, and only a 2xx closes the circuit."""
    flow = VirtualFlow()
    control = flow.control
    for status in statuses:
        was_closed = control.breaker.is_closed
        flow.send(Answer(status))
        assert control.limiter.in_flight == 0
        assert 1 <= control.limiter.limit <= IN_FLIGHT_MAX
        assert control.breaker.is_closed or bool(control.throttle.until)
        if control.breaker.is_closed and not was_closed:
            assert status == 200
