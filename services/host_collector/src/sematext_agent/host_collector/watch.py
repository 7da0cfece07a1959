"""Both sources of the host collector as one: the kernel's log and the packages.

Each source has cursors of its own, by name, so neither waits until the other is safe. They share
one bounded buffer: while the bus accepts nothing, no source is read any further.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sematext_agent.host_collector.kernel import watch as kernel
from sematext_agent.host_collector.packages import watch as packages
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.merge import merge
from sematext_agent.shared.service import Runtime

PENDING_MAX = 64
"""Observations that may wait between the sources and the bus."""


async def watch(
    runtime: Runtime[HostSettings], cursor: bytes | None
) -> AsyncGenerator[Observation, None]:
    """Yield what the enabled sources observe, until `runtime.stopping` is set.

    The `cursor` without a name is not used: every source reads its own.

    Raises:
        SourceEndedError: a source ended before `runtime.stopping` was set.
        SettingsError: `HOST_ROOT` is no directory.
    """
    settings = runtime.settings
    sources: list[AsyncGenerator[Observation, None]] = []
    if settings.oom_enabled:
        sources.append(kernel.watch(runtime))
    if settings.pkg_enabled or settings.pkg_container_enabled:
        sources.append(packages.watch(runtime))
    async with aclosing(merge(sources, runtime.stopping, PENDING_MAX)) as observations:
        async for observation in observations:
            yield observation
    await runtime.stopping.wait()  # with every source disabled there is nothing else to do
