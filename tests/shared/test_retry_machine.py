"""Waits between tries: never beyond a ceiling that doubles with each failure, and starts anew."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule

from sematext_agent.shared.retry import Backoff


class BackoffMachine(RuleBasedStateMachine):
    @initialize(first=st.floats(0.01, 10), most=st.floats(0.01, 100))
    def begin(self, first: float, most: float) -> None:
        self.backoff = Backoff(first, most)
        self.first, self.ceiling, self.most = first, first, most

    @rule(times=st.sampled_from([1, 2, 2000]))
    def fail(self, times: int) -> None:
        for _ in range(times):
            assert 0 <= self.backoff.draw_delay_seconds() <= min(self.ceiling, self.most)
            self.ceiling = min(self.ceiling * 2, self.most)

    @rule()
    def succeed(self) -> None:
        self.backoff.reset()
        self.ceiling = self.first


TestBackoff = BackoffMachine.TestCase
TestBackoff.settings = settings(max_examples=20, stateful_step_count=10, deadline=None)
