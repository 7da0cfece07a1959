"""What each answer means, and that a person is told what to do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.transport import Answer
from sematext_agent.forwarder.verdict import Verdict, in_words, is_crowded, judge


@pytest.mark.parametrize(
    ("verdict", "statuses"),
    [
        (Verdict.DELIVERED, [200, 201, 202, 204]),
        (Verdict.RETRY, [0, 408, 425, 429, 500, 502, 503, 504, 507, 520, 599]),
        (Verdict.REFUSED, [400, 405, 406, 409, 410, 411, 413, 414, 415, 422, 431, 501, 505]),
        (Verdict.HOLD, [300, 301, 302, 304, 307, 308, 401, 403, 404, 407, 511]),
    ],
)
def test_status(verdict: Verdict, statuses: list[int]) -> None:
    assert {judge(Answer(status)) for status in statuses} == {verdict}


@given(st.integers(0, 999))
def test_only_a_2xx_counts_as_delivered(status: int) -> None:
    assert (judge(Answer(status)) is Verdict.DELIVERED) == (200 <= status < 300)


def test_words_name_the_remedy_and_what_the_receiver_said() -> None:
    answer = Answer(403, '{"error": "Application not found for token ********, ok"}')
    assert in_words(answer) == (
        "answered 403: Application not found for token ********, ok: "
        "the token is not accepted: check INFRA_TOKEN and REGION"
    )
    assert in_words(Answer(0, problem="Connection refused")) == "no answer: Connection refused"
    assert "EVENTS_RECEIVER_URL" in in_words(Answer(302))
    assert in_words(Answer(500, "<html>\n  bad  </html>")) == "answered 500: <html> bad </html>"


def test_crowding() -> None:
    assert is_crowded(Answer(429))
    assert is_crowded(Answer(0, timed_out=True))
    assert not is_crowded(Answer(500))
