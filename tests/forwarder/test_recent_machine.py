"""The memory of ids beside a list that is simply cut to its last few."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from forwarder.recent import RecentIds

IDS_MAX = 5
IDS = st.sampled_from([*map(str, range(9)), "\udcff", ""])


class RecentMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.recent = RecentIds(IDS_MAX)
        self.model: list[str] = []

    @rule(id=IDS)
    def add(self, id: str) -> None:  # noqa: A002
        self.recent.add(id)
        self.model = [*(known for known in self.model if known != id), id][-IDS_MAX:]

    @rule(id=IDS)
    def ask(self, id: str) -> None:  # noqa: A002
        assert (id in self.recent) == (id in self.model)

    @invariant()
    def it_is_bounded(self) -> None:
        assert len(self.recent) == len(self.model) <= IDS_MAX


TestRecent = RecentMachine.TestCase
TestRecent.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
