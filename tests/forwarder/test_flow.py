"""The pace of the whole flow: how many at once, when, and whether at all."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder import flow as flow_module
from sematext_agent.forwarder.flow import FAILURES_TO_CLOSE, IN_FLIGHT_MAX, REFUSALS_TO_CLOSE, Flow
from sematext_agent.forwarder.transport import Answer
from sematext_agent.forwarder.verdict import Verdict, judge
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff


@pytest.fixture
def health() -> Health:
    return Health("forwarder", "test")


def a_flow(health: Health, on_room: Callable[[], None] = lambda: None) -> Flow:
    return Flow(health, "http://r", on_room)


def post(flow: Flow, answer: Answer, seconds: float = 0.0) -> None:
    flow.enter()
    flow.leave(judge(answer), answer, seconds)


def words(health: Health) -> tuple[bool, str]:
    condition = health.report().conditions["receiver"]
    return condition.ok, condition.detail


async def test_no_more_at_once_than_the_limit(health: Health) -> None:
    flow = a_flow(health)
    flow.limit = 3
    for _ in range(3):
        assert flow.has_room()
        flow.enter()
    assert not flow.has_room()
    flow.leave(Verdict.DELIVERED, Answer(200), 0.0)
    assert flow.has_room()


async def test_grows_by_one_a_round_of_success_and_shrinks_by_a_tenth_when_crowded(
    health: Health,
) -> None:
    flow = a_flow(health)
    flow.limit = 10
    for _ in range(10):
        flow.enter()
    for _ in range(10):
        flow.leave(Verdict.DELIVERED, Answer(200), 0.0)
        flow.enter()
    assert 10.9 <= flow.limit <= 11
    before = flow.limit
    # Two that were in flight together: one crowding.
    flow.leave(Verdict.RETRY, Answer(429), 1.0)
    flow.leave(Verdict.RETRY, Answer(429), 1.0)
    assert flow.limit == pytest.approx(before * 0.9)


async def test_an_idle_flow_does_not_grow(health: Health) -> None:
    flow = a_flow(health)
    before = flow.limit
    for _ in range(100):
        post(flow, Answer(200))
    assert flow.limit == before


async def test_retry_after_holds_back_everything_and_says_so(health: Health) -> None:
    resumed = asyncio.Event()
    flow = a_flow(health, resumed.set)
    began = asyncio.get_running_loop().time()
    post(flow, Answer(429, retry_after=0.2))
    assert not flow.has_room()
    assert words(health) == (False, "http://r asked to wait for 0 s, answered 429")
    post(flow, Answer(200))  # one that was in flight: the pause stays
    assert not flow.has_room()
    assert not words(health)[0]
    await resumed.wait()
    assert asyncio.get_running_loop().time() - began >= 0.19
    assert flow.has_room()
    post(flow, Answer(200))
    assert words(health) == (True, "http://r takes events")


async def test_retry_after_is_believed_for_an_hour_at_most(health: Health) -> None:
    flow = a_flow(health)
    post(flow, Answer(503, retry_after=1e9))
    assert flow._not_before - asyncio.get_running_loop().time() <= 3600
    flow.stop()


@pytest.mark.parametrize(
    ("answer", "posts"),
    [
        (Answer(403), 1),
        (Answer(301), 1),
        (Answer(0, problem="refused"), FAILURES_TO_CLOSE),
        (Answer(500), FAILURES_TO_CLOSE),
        (Answer(400), REFUSALS_TO_CLOSE),
    ],
)
async def test_closed_flow_lets_one_try_at_a_time_and_opens_after_a_delivery(
    health: Health, answer: Answer, posts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "Backoff", lambda *_: Backoff(0.01, 0.02))
    resumed = asyncio.Event()
    flow = a_flow(health, resumed.set)
    for _ in range(posts):
        assert flow.is_open
        post(flow, answer)
    for _ in range(2):
        assert not flow.is_open
        assert not words(health)[0]
        await resumed.wait()
        resumed.clear()
        assert flow.has_room()
        flow.enter()
        assert not flow.has_room()
        flow.leave(judge(answer), answer, 0.0)
    await resumed.wait()
    post(flow, Answer(200))
    assert flow.is_open
    assert words(health) == (True, "http://r takes events")
    flow.enter()
    assert flow.has_room()


async def test_those_in_flight_when_it_closes_are_one_failure(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.shared.retry.random.uniform", lambda _, ceiling: ceiling)
    flow = a_flow(health)
    for _ in range(10):
        flow.enter()
    for _ in range(9):
        flow.leave(Verdict.HOLD, Answer(403), 0.0)
    assert flow._backoff.failures == 1
    flow.stop()


async def test_the_pauses_of_a_closed_flow_grow(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.shared.retry.random.uniform", lambda _, ceiling: ceiling)
    flow = a_flow(health)
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(8):
        flow._not_before = 0.0
        post(flow, Answer(401))
        pauses.append(round(flow._not_before - loop.time()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]
    flow.stop()


async def test_a_success_between_failures_keeps_it_open(health: Health) -> None:
    flow = a_flow(health)
    for _ in range(3):
        for answer in (*[Answer(500)] * (FAILURES_TO_CLOSE - 1), Answer(200)):
            post(flow, answer)
        for answer in (*[Answer(400)] * (REFUSALS_TO_CLOSE - 1), Answer(200)):
            post(flow, answer)
    assert flow.is_open


@given(st.lists(st.sampled_from([0, 200, 400, 403, 429, 500]), max_size=60))
def test_bounds_hold_under_any_answers(statuses: list[int]) -> None:
    """The limit stays within its bounds, in_flight is right, and only a 2xx opens."""

    async def run() -> None:
        flow = a_flow(Health("forwarder", "test"))
        for status in statuses:
            was_open = flow.is_open
            post(flow, Answer(status))
            assert flow.in_flight == 0
            assert 1 <= flow.limit <= IN_FLIGHT_MAX
            assert flow.is_open or bool(flow._not_before)
            if flow.is_open and not was_open:
                assert status == 200
        flow.stop()

    asyncio.run(run())
