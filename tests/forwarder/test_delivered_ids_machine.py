"""The memory of ids beside a list that is cut to its last few."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sematext_agent.forwarder.delivered_ids import DeliveredIds

IDS_MAX = 5
NAMES = [*map(str, range(9)), "\udcff", ""]


class DeliveredIdsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.delivered_ids = DeliveredIds(IDS_MAX)
        self.model: list[str] = []

    @rule(id=st.sampled_from(NAMES))
    def add(self, id: str) -> None:  # noqa: A002
        self.delivered_ids.add(id)
        if id not in self.model:
            self.model = [*self.model, id][-IDS_MAX:]

    @invariant()
    def it_has_exactly_those_of_the_model(self) -> None:
        assert {name for name in NAMES if name in self.delivered_ids} == set(self.model)
        assert len(self.delivered_ids) == len(self.model) <= IDS_MAX


TestDeliveredIds = DeliveredIdsMachine.TestCase
TestDeliveredIds.settings = settings(max_examples=30, stateful_step_count=30, deadline=None)
