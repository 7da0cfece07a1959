"""Several sources of observations as one."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from sematext_agent.shared.collector import Observation


class SourceEndedError(RuntimeError):
    """A source ended although the service was not asked to stop."""


async def merge(
    sources: Sequence[AsyncGenerator[Observation, None]],
    stopping: asyncio.Event,
    pending_max: int = 1,
) -> AsyncGenerator[Observation, None]:
    """Yield what all `sources` yield, each in its own order, until all have ended.

    At most `pending_max` observations wait for the reader, which is the back-pressure on the
    sources. Each source runs in a task of its own, and nothing is yielded from inside a task group
    (PEP 789).

    Raises:
        SourceEndedError: a source ended before `stopping` was set.
        Exception: what a source raised; observations that arrived before it are yielded first.
    """
    if len(sources) == 1:
        async with aclosing(sources[0]) as source:
            async for observation in source:
                yield observation
        _check_end(stopping)
        return
    arrived: asyncio.Queue[Observation | Exception | None] = asyncio.Queue(pending_max)

    async def drain(source: AsyncGenerator[Observation, None]) -> None:
        try:
            async with aclosing(source):
                async for observation in source:
                    await arrived.put(observation)
            _check_end(stopping)
            await arrived.put(None)
        except Exception as error:
            await arrived.put(error)

    tasks = [asyncio.create_task(drain(source)) for source in sources]
    try:
        running = len(tasks)
        while running:
            item = await arrived.get()
            if item is None:
                running -= 1
            elif isinstance(item, Exception):
                raise item
            else:
                yield item
    finally:
        for task in tasks:
            task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.gather(*tasks, return_exceptions=True)


def _check_end(stopping: asyncio.Event) -> None:
    if not stopping.is_set():
        raise SourceEndedError("a source ended by itself")
