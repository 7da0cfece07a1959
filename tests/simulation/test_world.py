"""Simulated processes die, stop and go on as real ones do."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from typing import Any

from simulation.world import ProcessLoop, World


def start(world: World, main: Coroutine[Any, Any, None]) -> ProcessLoop:
    loop = ProcessLoop(world, "process")  # type: ignore[abstract]
    loop.call_soon(loop.create_task, main)
    return loop


async def tick(world: World, moments: list[float]) -> None:
    """Note the time every second, and at the end -1."""
    try:
        while True:
            await asyncio.sleep(1)
            moments.append(world.now)
    finally:
        moments.append(-1)


def test_a_killed_process_runs_none_of_its_finally_blocks() -> None:
    world, moments = World(1), list[float]()
    loop = start(world, tick(world, moments))
    world.run(2.5)
    loop.kill()
    world.run(10)
    assert moments == [1, 2]


def test_a_frozen_process_goes_on_with_the_timer_that_fell_due() -> None:
    world, moments = World(1), list[float]()
    loop = start(world, tick(world, moments))
    loop.is_frozen = True
    world.run(0.5)
    loop.is_frozen = False
    world.run(1.6)
    loop.is_frozen = True
    world.run(7.25)
    loop.is_frozen = False
    world.run(8.5)
    assert moments == [1.5, 7.25, 8.25]


def test_a_batch_of_a_process_is_chosen_by_the_seed() -> None:
    def order(seed: int) -> list[str]:
        world, names = World(seed), list[str]()
        for name in "abcdef":
            ProcessLoop(world, name).call_soon(names.append, name)  # type: ignore[abstract]
        world.run(1)
        return names

    assert order(1) == order(1)
    assert len({tuple(order(seed)) for seed in range(5)}) > 1
