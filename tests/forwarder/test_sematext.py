"""The meaning of each answer of the receiver, and its description with a remedy."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.destination import Answer, Judgement, Outcome
from sematext_agent.forwarder.sematext import describe, judge


@pytest.mark.parametrize(
    ("outcome", "statuses"),
    [
        (Outcome.DELIVERED, [200, 201, 202, 204]),
        (Outcome.RETRY, [0, 408, 425, 429, 500, 502, 503, 504, 507, 520, 599]),
        (Outcome.REFUSED, [400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431, 501, 505]),
        (Outcome.HOLD, [300, 301, 302, 304, 307, 308, 401, 403, 404, 407, 511]),
    ],
)
def test_each_status_has_its_outcome(outcome: Outcome, statuses: list[int]) -> None:
    assert {judge(Answer(status)).outcome for status in statuses} == {outcome}


@given(st.integers(0, 999))
def test_only_a_2xx_counts_as_delivered(status: int) -> None:
    is_delivered = judge(Answer(status)).outcome is Outcome.DELIVERED
    assert is_delivered == (200 <= status < 300)


def test_the_description_names_the_remedy_and_the_receivers_explanation() -> None:
    answer = Answer(403, '{"error": "Application not found for token ********, ok"}')
    assert describe(answer) == (
        "answered 403: Application not found for token ********, ok: "
        "the token is not accepted: check INFRA_TOKEN and REGION"
    )
    assert describe(Answer(0, problem="Connection refused")) == "no answer: Connection refused"
    assert "EVENTS_RECEIVER_URL" in describe(Answer(302))
    assert describe(Answer(500, "<html>\n  bad  </html>")) == "answered 500: <html> bad </html>"
    assert describe(Answer(201)) == "answered 201"


def test_a_judgement_carries_what_the_rest_acts_on() -> None:
    assert judge(Answer(200)) == Judgement(Outcome.DELIVERED, 200, "answered 200")
    assert judge(Answer(200, retry_after=1.0)).retry_after == 1.0
    assert judge(Answer(429, retry_after=2.0)) == Judgement(
        Outcome.RETRY, 429, "answered 429", 2.0, is_overloaded=True
    )


def test_503_and_a_timeout_are_overload_and_500_is_not() -> None:
    assert judge(Answer(503)).is_overloaded
    assert judge(Answer(0, timed_out=True)).is_overloaded
    assert not judge(Answer(500)).is_overloaded
