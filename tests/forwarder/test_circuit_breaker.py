"""The circuit breaker alone: when it opens, what it lets through, what closes it."""

from __future__ import annotations

import pytest

from sematext_agent.forwarder.circuit_breaker import (
    FAILURES_MAX,
    REFUSALS_MAX,
    Circuit,
    CircuitBreaker,
)
from sematext_agent.shared.retry import Backoff


@pytest.fixture
def breaker() -> CircuitBreaker:
    return CircuitBreaker(Backoff(1, 30, lambda low, high: high))


def state_of(breaker: CircuitBreaker) -> Circuit:
    """Return the state, which a type checker takes for constant otherwise."""
    return breaker.state


def test_failures_in_a_row_open_the_circuit(breaker: CircuitBreaker) -> None:
    assert [breaker.record_failure() for _ in range(FAILURES_MAX)][-2:] == [False, True]


def test_a_success_ends_the_row(breaker: CircuitBreaker) -> None:
    for _ in range(FAILURES_MAX - 1):
        breaker.record_failure()
    for _ in range(REFUSALS_MAX - 1):
        breaker.record_refusal()
    breaker.record_success()
    assert not breaker.record_failure()
    assert not breaker.record_refusal()


def test_a_refusal_ends_the_row_of_failures_as_the_destination_answers(
    breaker: CircuitBreaker,
) -> None:
    for _ in range(FAILURES_MAX - 1):
        breaker.record_failure()
    breaker.record_refusal()
    assert not breaker.record_failure()


def test_half_open_comes_after_open_and_a_failed_probe_opens_it_again(
    breaker: CircuitBreaker,
) -> None:
    breaker.allow_probe()
    assert state_of(breaker) is Circuit.CLOSED
    assert breaker.open(in_flight=0) == 1
    assert state_of(breaker) is Circuit.OPEN
    breaker.allow_probe()
    assert state_of(breaker) is Circuit.HALF_OPEN
    assert breaker.record_failure()
    assert breaker.open(in_flight=0) == 2
    assert state_of(breaker) is Circuit.OPEN


def test_sends_that_were_in_flight_when_it_opened_add_no_pause(breaker: CircuitBreaker) -> None:
    assert breaker.open(in_flight=3) == 1
    assert breaker.open(in_flight=2) is None
    assert breaker.open(in_flight=0) == 2


def test_a_success_closes_it_and_forgets_the_pauses(breaker: CircuitBreaker) -> None:
    breaker.open(in_flight=0)
    breaker.open(in_flight=0)
    breaker.record_success()
    assert breaker.is_closed
    assert breaker.open(in_flight=0) == 1
