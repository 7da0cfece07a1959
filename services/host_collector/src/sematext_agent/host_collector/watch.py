"""Everything the host collector sees, as one flow: OOM kills and package changes.

Each source keeps a cursor of its own (`Observed.part`), so neither waits for the other to be safe.
They share one bounded buffer: while the bus takes nothing, no source is read any further.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from contextlib import aclosing

from sematext_agent.host_collector import oom, packages
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation, read_cursor
from sematext_agent.shared.service import Runtime

Source = AsyncGenerator[Observation, None]

HELD_MAX = 64
"""How many observations may wait between the sources and the bus."""


async def watch(runtime: Runtime[HostSettings], cursor: bytes | None) -> AsyncIterator[Observation]:
    """What the sources that are switched on see, until `runtime.stopping` is set.

    `cursor`, the one without a part, is not used: every source reads its own.
    """
    sources: list[Source] = []
    if runtime.settings.oom_enabled:
        sources.append(oom.watch(runtime, await read_cursor(runtime, oom.PART)))
    if runtime.settings.pkg_enabled or runtime.settings.pkg_container_enabled:
        sources.append(packages.changes(runtime))
    async with aclosing(merged(sources, runtime.stopping)) as observations:
        async for observed in observations:
            yield observed
    await runtime.stopping.wait()  # with every source switched off there is nothing else to do


async def merged(sources: Sequence[Source], stopping: asyncio.Event) -> Source:
    """What the sources yield, in the order in which it comes; ends when all of them have ended.

    The sources run in tasks of their own, and nothing is yielded from inside a task group, where
    an exception of one task would be raised in whoever iterates (PEP 789).

    Raises:
        ExceptionGroup: a source raised, or ended before `stopping` was set. What the others had
            brought until then is yielded first.
    """
    held: asyncio.Queue[Observation | None] = asyncio.Queue()
    room = asyncio.Semaphore(HELD_MAX)

    async def feed(source: Source) -> None:
        async with aclosing(source):
            async for observed in source:
                await room.acquire()
                held.put_nowait(observed)
        if not stopping.is_set():
            raise RuntimeError("a source of the host ended by itself")

    async def feed_all() -> None:
        async with asyncio.TaskGroup() as tasks:
            for source in sources:
                tasks.create_task(feed(source))

    feeding = asyncio.create_task(feed_all(), name="sources")
    feeding.add_done_callback(lambda _: held.put_nowait(None))
    try:
        while (observed := await held.get()) is not None:
            room.release()
            yield observed
        await feeding  # raises what a source raised
    finally:
        feeding.cancel()
        await asyncio.wait([feeding])
