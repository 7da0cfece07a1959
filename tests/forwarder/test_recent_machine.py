"""The memory of ids beside a list that is simply cut to its last few."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sematext_agent.forwarder.recent import RecentIds

IDS_MAX = 5
NAMES = [*map(str, range(9)), "\udcff", ""]


class RecentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.recent = RecentIds(IDS_MAX)
        self.model: list[str] = []

    @rule(id=st.sampled_from(NAMES))
    def add(self, id: str) -> None:  # noqa: A002
        self.recent.add(id)
        if id not in self.model:
            self.model = [*self.model, id][-IDS_MAX:]

    @invariant()
    def it_has_exactly_those_of_the_model(self) -> None:
        assert {name for name in NAMES if name in self.recent} == set(self.model)
        assert len(self.recent) == len(self.model) <= IDS_MAX


TestRecent = RecentMachine.TestCase
TestRecent.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
