"""The concurrency limiter: additive increase, multiplicative decrease."""

from __future__ import annotations

import pytest

from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX, ConcurrencyLimiter


@pytest.fixture
def limiter() -> ConcurrencyLimiter:
    return ConcurrencyLimiter()


def succeed(limiter: ConcurrencyLimiter) -> None:
    limiter.end()
    limiter.record_success()


def test_a_full_round_of_successes_adds_one(limiter: ConcurrencyLimiter) -> None:
    limiter.limit = 10
    for _ in range(10):
        limiter.begin()
    for _ in range(10):
        succeed(limiter)
        limiter.begin()
    assert 10.9 <= limiter.limit <= 11


def test_sends_in_flight_together_shrink_it_by_a_tenth_once(limiter: ConcurrencyLimiter) -> None:
    limiter.limit = 10
    limiter.record_overload(began_at=1.0, now=2.0)
    limiter.record_overload(began_at=1.0, now=2.1)
    assert limiter.limit == pytest.approx(9)
    limiter.record_overload(began_at=2.0, now=3.0)
    assert limiter.limit == pytest.approx(8.1)


def test_it_does_not_grow_below_its_limit(limiter: ConcurrencyLimiter) -> None:
    before = limiter.limit
    for _ in range(100):
        limiter.begin()
        succeed(limiter)
    assert limiter.limit == before


def test_it_stays_within_its_bounds(limiter: ConcurrencyLimiter) -> None:
    for second in range(100):
        limiter.record_overload(second, second)
    assert limiter.limit == 1
    for _ in range(100_000):
        while not limiter.is_full:
            limiter.begin()
        succeed(limiter)
    assert limiter.limit == IN_FLIGHT_MAX
