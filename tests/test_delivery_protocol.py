"""The promises of the delivery protocol, checked in every state that a few faults can lead to.

And the checker itself: with any one rule of the protocol broken it must find a way to break a
promise, which `pytest -s` prints.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from delivery_protocol import Rules, State, Step, Violation, explore


@pytest.mark.parametrize(("events", "faults"), [(2, 1), (1, 3)])
def test_the_protocol_keeps_its_promises_whatever_goes_wrong(events: int, faults: int) -> None:
    states = explore(events, faults)
    print(f"{states} states of {events} events and {faults} faults")
    assert states > 1000


@pytest.mark.parametrize(
    ("broken", "promise", "culprit"),
    [
        ("cursor_after_puback", "lost: [0]", "store the cursor 1"),
        (
            "unanswered_publish_is_repeated",
            "stuck, and not everything is received",
            "kill the server",
        ),
        ("ids_from_the_source", "received under two ids", "kill the collector"),
        ("acknowledge_after_2xx", "lost: [0]", "acknowledge #0"),
        ("delivered_ids", "received twice: 0", "kill the server, which forgets acknowledgements"),
    ],
)
def test_each_rule_of_the_protocol_is_needed(broken: str, promise: str, culprit: str) -> None:
    with pytest.raises(Violation) as violation:
        explore(1, 1, Rules(**{broken: False}))
    trace = str(violation.value)
    print(f"without {broken}:{trace}")
    assert culprit in trace
    assert trace.endswith(promise)


def test_a_run_that_never_ends_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """Such as that of a broker that redelivers for ever what is in flight."""
    import delivery_protocol as protocol

    def with_redelivery(state: State, events: int, rules: Rules) -> Iterator[Step]:
        yield from sound(state, events, rules)
        for sequence in state.in_flight:
            yield (
                f"deliver #{sequence} again",
                state._replace(in_flight=state.in_flight - {sequence}),
            )

    sound = protocol.steps
    monkeypatch.setattr(protocol, "steps", with_redelivery)
    with pytest.raises(Violation, match="goes on for ever"):
        explore(1, 0)
