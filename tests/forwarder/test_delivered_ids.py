"""The memory of delivered ids: right against a model, and bounded."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.delivered_ids import DeliveredIds


@given(st.lists(st.text(max_size=3)), st.integers(1, 5))
def test_it_holds_exactly_the_last_ids(ids: list[str], ids_max: int) -> None:
    delivered_ids = DeliveredIds(ids_max)
    model: list[str] = []
    for message_id in ids:
        delivered_ids.add(message_id)
        if message_id not in model:
            model = [*model, message_id][-ids_max:]
        assert len(delivered_ids) == len(model)
    assert all((message_id in delivered_ids) == (message_id in model) for message_id in ids)
