"""The merge of the host's sources into one flow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Any

import pytest

from sematext_agent.host_collector import packages, watch
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.host_collector.watch import HELD_MAX, merged
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime


class Numbers:
    """A source that counts, and says how far it was read and whether it was closed."""

    def __init__(self, part: str, count: int, stopping: asyncio.Event) -> None:
        self.part = part
        self.count = count
        self.stopping = stopping
        self.produced = 0
        self.closed = False

    async def flow(self) -> AsyncGenerator[Observation, None]:
        try:
            for number in range(self.count):
                self.produced += 1
                yield Observation(None, b"%d" % number, self.part)
            await self.stopping.wait()
            yield Observation(None, b"end", self.part)
        finally:
            self.closed = True


async def failing() -> AsyncGenerator[Observation, None]:
    yield Observation(None, b"last words", "bad")
    raise ConnectionError("the source broke")


async def test_everything_of_every_source_comes_in_its_order_and_to_the_end() -> None:
    stopping = asyncio.Event()
    sources = [Numbers(part, 500, stopping) for part in ("a", "b")]
    found: dict[str, list[bytes | None]] = {"a": [], "b": []}
    async for observed in merged([source.flow() for source in sources], stopping):
        found[observed.cursor_name].append(observed.cursor)
        if sum(map(len, found.values())) == 1000:
            stopping.set()
    expected = [b"%d" % number for number in range(500)] + [b"end"]
    assert found == {"a": expected, "b": expected}


async def test_a_source_is_read_no_further_than_the_buffer_is_large() -> None:
    stopping = asyncio.Event()
    source = Numbers("a", 10_000, stopping)
    async with aclosing(merged([source.flow()], stopping)) as observations:
        await anext(observations)
        for _ in range(5 * HELD_MAX):
            await asyncio.sleep(0)
        assert source.produced <= HELD_MAX + 2
    assert source.closed


async def test_a_fault_of_one_source_is_raised_after_what_came_before_it() -> None:
    stopping = asyncio.Event()
    other = Numbers("a", 0, stopping)
    found = []
    with pytest.RaisesGroup(pytest.RaisesExc(ConnectionError, match="broke")):
        async for observed in merged([failing(), other.flow()], stopping):
            found.append(observed.cursor)
    assert found == [b"last words"]
    assert other.closed


async def test_a_source_that_ends_unasked_is_a_fault() -> None:
    async def ended() -> AsyncGenerator[Observation, None]:
        yield Observation(None, b"1", "a")

    with pytest.RaisesGroup(pytest.RaisesExc(RuntimeError, match="ended by itself")):
        async for _ in merged([ended()], asyncio.Event()):
            pass


@pytest.mark.parametrize(
    ("host", "containers", "looks"),
    [(True, False, True), (False, True, True), (True, True, True), (False, False, False)],
)
async def test_packages_of_containers_are_told_whether_those_of_the_host_are_or_not(
    monkeypatch: pytest.MonkeyPatch, host: bool, containers: bool, looks: bool
) -> None:
    async def changes(runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
        yield Observation(None, b"looked")
        await runtime.stopping.wait()

    monkeypatch.setattr(packages, "changes", changes)
    wanted = HostSettings(oom_enabled=False, pkg_enabled=host, pkg_container_enabled=containers)
    bus: Any = None
    runtime = Runtime(wanted, Health("host", "web-01"), bus, asyncio.Event())
    found = []
    asyncio.get_running_loop().call_later(0.1, runtime.stopping.set)
    async for observed in watch.watch(runtime, None):
        found.append(observed.cursor)
    assert found == ([b"looked"] if looks else [])
