"""Backoff stays below a ceiling that doubles with each failure; `retry` ends with a success."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from virtual_time import ManualClock

from sematext_agent.shared.retry import Backoff, retry


class BackoffMachine(RuleBasedStateMachine):
    @initialize(first=st.floats(0.01, 10), most=st.floats(0.01, 100))
    def begin(self, first: float, most: float) -> None:
        self.backoff = Backoff(first, most)
        self.first, self.ceiling, self.most = first, first, most

    @rule(times=st.sampled_from([1, 2, 2000]))
    def fail(self, times: int) -> None:
        for _ in range(times):
            failures = self.backoff.failures
            assert 0 <= self.backoff.draw_delay_seconds() <= min(self.ceiling, self.most)
            assert self.backoff.failures == failures + 1
            self.ceiling = min(self.ceiling * 2, self.most)

    @rule()
    def succeed(self) -> None:
        self.backoff.reset()
        self.ceiling = self.first


TestBackoff = BackoffMachine.TestCase
TestBackoff.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)


def upper_bound(_: float, high: float) -> float:
    return high


def test_the_delay_is_drawn_from_the_randomness_that_is_handed_in() -> None:
    backoff = Backoff(1, 5, upper_bound)
    assert [backoff.draw_delay_seconds() for _ in range(5)] == [1, 2, 4, 5, 5]


class Flaky:
    """An operation that fails `failures` times with `error`, then returns the number of calls."""

    def __init__(self, failures: int, error: Exception) -> None:
        self.failures = failures
        self.error = error
        self.calls = 0

    async def __call__(self) -> int:
        self.calls += 1
        if self.calls <= self.failures:
            raise self.error
        return self.calls


@pytest.mark.virtual_time
async def test_retry_pauses_after_each_error_and_returns_the_first_result(
    manual_clock: ManualClock,
) -> None:
    reported: list[str] = []
    backoff = Backoff(1, 60, upper_bound)
    attempt = Flaky(3, OSError("away"))
    assert await retry(attempt, OSError, backoff, lambda e: reported.append(str(e))) == 4
    assert reported == ["away"] * 3
    assert backoff.failures == 3
    assert manual_clock.monotonic() == pytest.approx(1 + 2 + 4)


async def test_retry_raises_an_error_it_was_not_asked_to_catch() -> None:
    attempt = Flaky(1, ValueError("a fault"))
    with pytest.raises(ValueError, match="a fault"):
        await retry(attempt, (OSError, KeyError), Backoff())
    assert attempt.calls == 1
