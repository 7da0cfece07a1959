"""The pace of the whole flow: how many at once, when, and whether at all."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from forwarder import flow as flow_module
from forwarder.flow import FAILURES_TO_CLOSE, IN_FLIGHT_MAX, REFUSALS_TO_CLOSE, Flow
from forwarder.transport import Answer
from forwarder.verdict import judge
from shared.health import Health
from shared.retry import Backoff


@pytest.fixture
def health() -> Health:
    return Health("forwarder", "test")


async def post(flow: Flow, answer: Answer) -> None:
    await flow.enter()
    flow.leave(judge(answer), answer, 0.0)


def words(health: Health) -> tuple[bool, str]:
    condition = health.report().conditions["receiver"]
    return condition.ok, condition.detail


async def waits(flow: Flow, seconds: float = 0.05) -> bool:
    """Whether nobody may post now."""
    try:
        async with asyncio.timeout(seconds):
            await flow.enter()
    except TimeoutError:
        return True
    flow.abandon()
    return False


async def test_no_more_at_once_than_the_limit(health: Health) -> None:
    flow = Flow(health, "http://r")
    flow.limit = 3
    for _ in range(3):
        await flow.enter()
    assert await waits(flow)
    assert flow.in_flight == 3
    flow.leave(judge(Answer(200)), Answer(200), 0.0)
    assert not await waits(flow)


async def test_grows_by_one_a_round_of_success_and_shrinks_by_a_tenth_when_crowded(
    health: Health,
) -> None:
    flow = Flow(health, "http://r")
    flow.limit = 10
    for _ in range(10):
        await flow.enter()
    for _ in range(10):
        await flow.enter() if flow.in_flight < 10 else None
        flow.leave(judge(Answer(200)), Answer(200), 0.0)
        await flow.enter()
    assert 10.9 <= flow.limit <= 11
    before = flow.limit
    # Two that were in flight together: one crowding.
    flow.leave(judge(Answer(429)), Answer(429), 1.0)
    flow.leave(judge(Answer(429)), Answer(429), 1.0)
    assert flow.limit == pytest.approx(before * 0.9)


async def test_an_idle_flow_does_not_grow(health: Health) -> None:
    flow = Flow(health, "http://r")
    before = flow.limit
    for _ in range(100):
        await post(flow, Answer(200))
    assert flow.limit == before


async def test_retry_after_holds_back_everything_and_says_so(health: Health) -> None:
    flow = Flow(health, "http://r")
    await post(flow, Answer(429, retry_after=0.2))
    began = asyncio.get_running_loop().time()
    assert words(health) == (False, "http://r asked to wait for 0 s, answered 429")
    await asyncio.gather(*(post(flow, Answer(200)) for _ in range(3)))
    assert asyncio.get_running_loop().time() - began >= 0.19
    assert words(health) == (True, "http://r takes events")


@pytest.mark.parametrize(("answer", "posts"), [
    (Answer(403), 1), (Answer(301), 1), (Answer(0, problem="refused"), FAILURES_TO_CLOSE),
    (Answer(500), FAILURES_TO_CLOSE), (Answer(400), REFUSALS_TO_CLOSE),
])  # fmt: skip
async def test_closed_flow_lets_one_try_at_a_time_and_opens_after_a_delivery(
    health: Health, answer: Answer, posts: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(flow_module, "Backoff", lambda *_: Backoff(0.01, 0.02))
    flow = Flow(health, "http://r")
    for _ in range(posts):
        assert flow.is_open
        await post(flow, answer)
    assert not flow.is_open
    assert not words(health)[0]
    await flow.enter()
    assert await waits(flow)
    flow.leave(judge(answer), answer, 0.0)
    assert not flow.is_open
    await post(flow, Answer(200))
    assert flow.is_open
    assert words(health) == (True, "http://r takes events")
    await flow.enter()
    assert not await waits(flow)


async def test_the_pauses_of_a_closed_flow_grow(
    health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("shared.retry.random.uniform", lambda _, ceiling: ceiling)
    flow = Flow(health, "http://r")
    loop = asyncio.get_running_loop()
    pauses = []
    for _ in range(8):
        flow.in_flight += 1  # as the one that tries
        flow.leave(judge(Answer(401)), Answer(401), 0.0)
        pauses.append(round(flow._not_before - loop.time()))
    assert pauses == [1, 2, 4, 8, 16, 30, 30, 30]


async def test_a_success_between_failures_keeps_it_open(health: Health) -> None:
    flow = Flow(health, "http://r")
    for _ in range(3):
        for answer in (*[Answer(500)] * (FAILURES_TO_CLOSE - 1), Answer(200)):
            await post(flow, answer)
        for answer in (*[Answer(400)] * (REFUSALS_TO_CLOSE - 1), Answer(200)):
            await post(flow, answer)
    assert flow.is_open


async def test_a_cancelled_wait_takes_no_place(health: Health) -> None:
    flow = Flow(health, "http://r")
    flow.limit = 1
    await flow.enter()
    waiting = asyncio.create_task(flow.enter())
    await asyncio.sleep(0)
    # Its turn comes and it is cancelled before it runs.
    flow.leave(judge(Answer(200)), Answer(200), 0.0)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert flow.in_flight == 0


@given(st.lists(st.sampled_from([0, 200, 400, 403, 429, 500]), max_size=60))
def test_bounds_hold_under_any_answers(statuses: list[int]) -> None:
    """The limit stays within its bounds, in_flight is right, and only a 2xx opens."""

    async def run() -> None:
        flow = Flow(Health("forwarder", "test"), "http://r")
        for status in statuses:
            flow._not_before = 0.0
            await flow.enter()
            was_open = flow.is_open
            flow.leave(judge(Answer(status)), Answer(status), 0.0)
            assert flow.in_flight == 0
            assert 1 <= flow.limit <= IN_FLIGHT_MAX
            if flow.is_open and not was_open:
                assert status == 200

    asyncio.run(run())
