"""Waiting for an event with a bound, and for work that an event ends. All in virtual time."""

from __future__ import annotations

import asyncio

import pytest
from virtual_time import ManualClock

from sematext_agent.shared.waiting import run_until_event, wait_for_event

pytestmark = pytest.mark.virtual_time


async def test_a_wait_ends_at_its_bound_or_when_the_event_is_set(
    manual_clock: ManualClock,
) -> None:
    event = asyncio.Event()
    assert not await wait_for_event(event, 10)
    assert manual_clock.monotonic() == pytest.approx(10)
    asyncio.get_running_loop().call_later(5, event.set)
    assert await wait_for_event(event, 3600)
    assert manual_clock.monotonic() == pytest.approx(15)


async def test_a_wait_for_an_event_that_is_set_takes_no_time(manual_clock: ManualClock) -> None:
    event = asyncio.Event()
    event.set()
    assert await wait_for_event(event, 3600)
    assert manual_clock.monotonic() == 0


async def sleep_and_return(seconds: float, result: str) -> str:
    await asyncio.sleep(seconds)
    return result


async def test_work_that_ends_before_the_event_gives_its_result() -> None:
    assert await run_until_event(asyncio.Event(), sleep_and_return(60, "done")) == "done"


async def test_work_is_cancelled_by_the_event_and_cleans_up_first(
    manual_clock: ManualClock,
) -> None:
    event, cleaned = asyncio.Event(), asyncio.Event()

    async def work() -> str:
        try:
            return await sleep_and_return(3600, "never")
        finally:
            await asyncio.sleep(1)
            cleaned.set()

    asyncio.get_running_loop().call_later(5, event.set)
    assert await run_until_event(event, work()) is None
    assert cleaned.is_set()
    assert manual_clock.monotonic() == pytest.approx(6)


async def test_work_that_loses_a_cancellation_is_cancelled_again(
    manual_clock: ManualClock,
) -> None:
    """As `asyncio.wait_for` of Python 3.11 does, where it meets the end of what it waits for."""
    event = asyncio.Event()
    lost: list[float] = []

    async def work() -> str:
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                if lost:
                    raise
                lost.append(manual_clock.monotonic())

    asyncio.get_running_loop().call_later(5, event.set)
    assert await run_until_event(event, work()) is None
    assert lost == pytest.approx([5])
    assert manual_clock.monotonic() == pytest.approx(8)


async def test_work_with_a_result_at_the_moment_of_the_event_keeps_it() -> None:
    event = asyncio.Event()

    async def work() -> str:
        event.set()
        return "done"

    assert await run_until_event(event, work()) == "done"


async def test_an_error_of_the_work_is_raised() -> None:
    async def work() -> None:
        raise ValueError("broken")

    with pytest.raises(ValueError, match="broken"):
        await run_until_event(asyncio.Event(), work())


async def test_cancelling_the_caller_cancels_the_work() -> None:
    working = asyncio.ensure_future(sleep_and_return(3600, "never"))
    waiting = asyncio.create_task(run_until_event(asyncio.Event(), working))
    await asyncio.sleep(1)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert working.cancelled()
