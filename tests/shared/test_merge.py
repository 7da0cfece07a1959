"""Merged sources: nothing is lost or reordered, and an end before the stop is a fault."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest

from sematext_agent.shared.collector import Observation
from sematext_agent.shared.merge import SourceEndedError, merge

pytestmark = pytest.mark.virtual_time


class Numbers:
    """A source of numbered cursors, one a second, that then raises, waits for the stop or ends."""

    def __init__(
        self,
        name: str,
        count: int,
        stopping: asyncio.Event | None = None,
        error: Exception | None = None,
    ) -> None:
        self.name = name
        self.count = count
        self.stopping = stopping
        self.error = error
        self.yielded = 0
        self.is_closed = False

    async def watch(self) -> AsyncGenerator[Observation, None]:
        try:
            for number in range(self.count):
                await asyncio.sleep(1)
                self.yielded += 1
                yield Observation(None, b"%d" % number, self.name)
            if self.error is not None:
                raise self.error
            if self.stopping is not None:
                await self.stopping.wait()
        finally:
            self.is_closed = True


async def read(*sources: Numbers, stopping: asyncio.Event) -> dict[str, list[int]]:
    """Return the numbers of each source, in their order of arrival."""
    numbers: dict[str, list[int]] = {source.name: [] for source in sources}
    async with aclosing(merge([source.watch() for source in sources], stopping)) as merged:
        async for observation in merged:
            assert observation.cursor is not None
            numbers[observation.cursor_name].append(int(observation.cursor))
    return numbers


@pytest.mark.parametrize("names", ["a", "ab", "abc"])
async def test_every_observation_arrives_in_the_order_of_its_source(names: str) -> None:
    stopping = asyncio.Event()
    asyncio.get_running_loop().call_later(100, stopping.set)
    sources = [Numbers(name, 10 + i, stopping) for i, name in enumerate(names)]
    expected = {name: list(range(10 + i)) for i, name in enumerate(names)}
    assert await read(*sources, stopping=stopping) == expected
    assert all(source.is_closed for source in sources)


@pytest.mark.parametrize("count", [0, 1])
async def test_a_source_that_ends_before_the_stop_is_a_fault(count: int) -> None:
    stopping = asyncio.Event()
    companions = [Numbers("b", 1000) for _ in range(count)]
    with pytest.raises(SourceEndedError):
        await read(Numbers("a", 3), *companions, stopping=stopping)
    assert all(source.is_closed for source in companions)


async def test_an_error_of_a_source_follows_what_arrived_before_it() -> None:
    failing = Numbers("a", 2, error=ZeroDivisionError("the source broke"))
    steady = Numbers("b", 1000)
    arrived: list[Observation] = []
    merged = merge([failing.watch(), steady.watch()], asyncio.Event())

    async def read_all() -> None:
        async for observation in merged:
            arrived.append(observation)

    with pytest.raises(ZeroDivisionError, match="the source broke"):
        await read_all()
    assert [o.cursor for o in arrived if o.cursor_name == "a"] == [b"0", b"1"]
    assert steady.is_closed


@pytest.mark.parametrize("pending_max", [1, 8])
async def test_a_slow_reader_holds_the_sources_back(pending_max: int) -> None:
    sources = [Numbers("a", 1000), Numbers("b", 1000)]
    async with aclosing(
        merge([source.watch() for source in sources], asyncio.Event(), pending_max)
    ) as merged:
        await anext(merged)
        await asyncio.sleep(500)
        # One is read, `pending_max` wait, and each source holds one more.
        assert sum(source.yielded for source in sources) == 1 + pending_max + 2
    assert all(source.is_closed for source in sources)
