"""Virtual time: hours pass in no time, and nothing that runs is overtaken by a timer."""

from __future__ import annotations

import asyncio
import time

import pytest
from virtual_time import WALL_START_NS, ManualClock, VirtualTimeLoop

from sematext_agent.shared.clock import Clock
from sematext_agent.shared.waiting import wait_for_event

HOUR_SECONDS = 3600.0


@pytest.mark.virtual_time
async def test_hours_of_sleep_take_no_time_and_timers_keep_their_order(
    manual_clock: ManualClock,
) -> None:
    started, order = time.monotonic(), []

    async def sleep(hours: int) -> None:
        await asyncio.sleep(hours * HOUR_SECONDS)
        order.append(hours)

    await asyncio.gather(*map(sleep, (3, 1, 2)))
    assert order == [1, 2, 3]
    assert manual_clock.monotonic() == pytest.approx(3 * HOUR_SECONDS)
    assert time.monotonic() - started < 5


@pytest.mark.virtual_time
async def test_a_wait_ends_with_its_event_or_with_its_bound(manual_clock: ManualClock) -> None:
    event = asyncio.Event()
    asyncio.get_running_loop().call_later(10, event.set)
    assert not await wait_for_event(event, 9)
    assert await wait_for_event(event, HOUR_SECONDS)
    assert manual_clock.monotonic() == pytest.approx(10)


@pytest.mark.virtual_time
async def test_a_thread_is_not_overtaken_by_a_timeout() -> None:
    async with asyncio.timeout(0.001):
        await asyncio.to_thread(time.sleep, 0.05)


async def test_an_unmarked_test_keeps_real_time() -> None:
    assert not isinstance(asyncio.get_running_loop(), VirtualTimeLoop)


def test_a_manual_clock_moves_as_a_machines_clocks_do() -> None:
    clock: Clock = ManualClock()
    assert isinstance(clock, ManualClock)
    assert (clock.monotonic(), clock.boottime(), clock.wall_ns()) == (0, 0, WALL_START_NS)
    clock.advance(5)
    clock.suspend(HOUR_SECONDS)
    clock.step_wall(-60)
    assert clock.monotonic() == 5
    assert clock.boottime() == 5 + HOUR_SECONDS
    assert clock.wall_ns() == WALL_START_NS + int(5 + HOUR_SECONDS - 60) * 10**9
