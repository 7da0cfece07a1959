"""The command `lifecycle-collector`, or `python -m sematext_agent.lifecycle_collector`.

It collects the events of the agent itself, and beside that stores the facts of the host.
"""

from __future__ import annotations

import asyncio

from sematext_agent.lifecycle_collector.facts import maintain_facts
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.watch import watch
from sematext_agent.shared.collector import collect
from sematext_agent.shared.service import Runtime, run


async def work(runtime: Runtime[LifecycleSettings]) -> None:
    """Collect events and maintain the facts; neither waits for the other."""
    async with asyncio.TaskGroup() as tasks:
        maintaining = tasks.create_task(maintain_facts(runtime), name="facts")
        await collect(watch)(runtime)
        maintaining.cancel()


def main() -> None:
    """Run the collector until it is asked to stop."""
    run("lifecycle", work, LifecycleSettings)


if __name__ == "__main__":
    main()
