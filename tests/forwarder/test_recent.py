"""The memory of delivered ids: right against a model, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.recent import RecentIds


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_holds_exactly_the_last_ids(ids: list[str], ids_max: int) -> None:
    recent = RecentIds(ids_max)
    model: list[str] = []
    for one in ids:
        recent.add(one)
        if one not in model:
            model = [*model, one][-ids_max:]
        assert len(recent) == len(model)
    assert all((one in recent) == (one in model) for one in ids)
