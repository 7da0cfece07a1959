"""Both sources of the host as one: order, back-pressure, faults, and which of them run."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import cast

import pytest

from sematext_agent.host_collector.kernel import watch as kernel_module
from sematext_agent.host_collector.packages import watch as packages_module
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.host_collector.watch import PENDING_MAX, watch
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.health import Health
from sematext_agent.shared.merge import SourceEndedError
from sematext_agent.shared.service import Runtime

Source = Callable[[Runtime[HostSettings]], AsyncGenerator[Observation, None]]


DEFAULTS = HostSettings()


class CountingSource:
    """A source that counts, and shows how far it was read and whether it was closed."""

    def __init__(self, name: str, count: int) -> None:
        self.name = name
        self.count = count
        self.produced = 0
        self.closed = False

    async def watch(self, runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
        try:
            for number in range(self.count):
                self.produced += 1
                yield Observation(None, b"%d" % number, self.name)
            await runtime.stopping.wait()
            yield Observation(None, b"end", self.name)
        finally:
            self.closed = True


async def failing(runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
    yield Observation(None, b"last", "bad")
    raise ConnectionError("the source broke")


async def ending(runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
    yield Observation(None, b"1", "bad")


def prepare(
    monkeypatch: pytest.MonkeyPatch,
    kernel: Source,
    packages: Source,
    settings: HostSettings = DEFAULTS,
) -> Runtime[HostSettings]:
    """Return a runtime, and replace both sources."""
    monkeypatch.setattr(kernel_module, "watch", kernel)
    monkeypatch.setattr(packages_module, "watch", packages)
    bus = cast(Bus, None)
    return Runtime(settings, Health("host", "web-01"), bus, asyncio.Event())


async def test_everything_of_both_sources_comes_in_its_order_and_to_the_end(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = CountingSource("a", 500), CountingSource("b", 500)
    runtime = prepare(monkeypatch, sources[0].watch, sources[1].watch)
    cursors: dict[str, list[bytes | None]] = {"a": [], "b": []}
    async for observation in watch(runtime, None):
        cursors[observation.cursor_name].append(observation.cursor)
        if sum(map(len, cursors.values())) == 1000:
            runtime.stopping.set()
    expected = [b"%d" % number for number in range(500)] + [b"end"]
    assert cursors == {"a": expected, "b": expected}


async def test_the_sources_are_read_no_further_than_the_buffer_is_large(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sources = CountingSource("a", 10_000), CountingSource("b", 10_000)
    runtime = prepare(monkeypatch, sources[0].watch, sources[1].watch)
    async with aclosing(watch(runtime, None)) as observations:
        await anext(observations)
        for _ in range(5 * PENDING_MAX):
            await asyncio.sleep(0)
        assert PENDING_MAX <= sum(source.produced for source in sources) <= PENDING_MAX + 4
    assert all(source.closed for source in sources)


async def test_a_fault_of_one_source_is_raised_after_what_came_before_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    packages = CountingSource("a", 0)
    runtime = prepare(monkeypatch, failing, packages.watch)
    observations = watch(runtime, None)
    assert (await anext(observations)).cursor == b"last"
    with pytest.raises(ConnectionError, match="broke"):
        await anext(observations)
    assert packages.closed


@pytest.mark.parametrize("oom", [True, False])
async def test_a_source_that_ends_before_the_stop_is_a_fault(
    monkeypatch: pytest.MonkeyPatch, oom: bool
) -> None:
    settings = HostSettings(oom_enabled=oom)
    runtime = prepare(monkeypatch, CountingSource("a", 0).watch, ending, settings)
    with pytest.raises(SourceEndedError):
        [observation async for observation in watch(runtime, None)]


@pytest.mark.parametrize(
    ("oom", "host", "containers", "names"),
    [
        (True, True, True, {"kernel", "packages"}),
        (True, False, False, {"kernel"}),
        (False, True, False, {"packages"}),
        (False, False, True, {"packages"}),
        (False, True, True, {"packages"}),
        (False, False, False, set()),
    ],
)
async def test_a_source_runs_where_one_of_its_settings_enables_it(
    monkeypatch: pytest.MonkeyPatch, oom: bool, host: bool, containers: bool, names: set[str]
) -> None:
    kernel, packages = CountingSource("kernel", 1), CountingSource("packages", 1)
    settings = HostSettings(oom_enabled=oom, pkg_enabled=host, pkg_container_enabled=containers)
    runtime = prepare(monkeypatch, kernel.watch, packages.watch, settings)
    asyncio.get_running_loop().call_later(0.02, runtime.stopping.set)
    assert {observation.cursor_name async for observation in watch(runtime, None)} == names
