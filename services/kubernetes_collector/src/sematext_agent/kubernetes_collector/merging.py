"""Several sources of observations as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from sematext_agent.shared.collector import Observation


async def merged(
    sources: Sequence[AsyncGenerator[Observation, None]],
) -> AsyncGenerator[Observation, None]:
    """What all `sources` yield, each in its own order. Ends when all have ended.

    None runs ahead of who reads this by more than one observation. Raises what the first of them
    raises.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for observed in source:
                yield observed
        return
    arrived: asyncio.Queue[Observation | BaseException | None] = asyncio.Queue(1)

    async def drain(source: AsyncGenerator[Observation, None]) -> None:
        try:
            async with aclosing(source):
                async for observed in source:
                    await arrived.put(observed)
            await arrived.put(None)
        except Exception as error:  # it is raised where this is read
            await arrived.put(error)

    tasks = [asyncio.create_task(drain(source)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if item is None:
                running -= 1
            elif isinstance(item, BaseException):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)
