"""The process: lifecycle events as a collector, and beside it the keeper of the host's facts."""

from __future__ import annotations

import asyncio

from sematext_agent.lifecycle_collector.facts import keep
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.watch import watch
from sematext_agent.shared.collector import collect
from sematext_agent.shared.service import Runtime, run


async def work(runtime: Runtime[LifecycleSettings]) -> None:
    """The events, and the facts beside them: neither waits for the other."""
    async with asyncio.TaskGroup() as tasks:
        keeper = tasks.create_task(keep(runtime), name="facts")
        await collect(watch)(runtime)
        keeper.cancel()


def main() -> None:
    run("lifecycle", work, LifecycleSettings)


if __name__ == "__main__":
    main()
