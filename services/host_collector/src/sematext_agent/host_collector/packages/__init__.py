"""Packages that are installed and removed, on the host and in its running containers.

    roots, processes  where packages are
    readers           what is in one such root: dpkg, rpm, python, node
    inventory         what the difference between two looks tells
    followed, follow  when to look
    slots             what was there at the last look that is safe

Between two rounds of looking, which run in a worker thread, the collector waits for a notification
of the kernel, for a few seconds at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress

from sematext_agent.host_collector.packages import slots
from sematext_agent.host_collector.packages.follow import Follower
from sematext_agent.host_collector.packages.notify import Notifier
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.service import Runtime

_COALESCE_SECONDS = 0.1
"""How long after the first notification the round starts, so that it sees what came with it."""


async def changes(runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
    """Every package that is installed or removed, until `runtime.stopping` is set.

    The cursors are the inventories of the roots, see `slots`; the last event of a change comes with
    the one that holds it. What was installed before the first run is not told.

    Raises:
        SettingsError: `HOST_ROOT` is no directory.
    """
    known = await slots.load(runtime)
    notifier = Notifier()
    try:
        follower = await asyncio.to_thread(Follower, runtime.settings, known, notifier)
        _count(runtime, follower)
        while not runtime.stopping.is_set():
            for told in await asyncio.to_thread(follower.round):
                for observed in told.observations():
                    yield observed
            for tree_id in follower.settling():
                if await _is_safe(runtime, follower, known, tree_id):
                    known.settled.add(tree_id)
                    part, cursor = known.index()
                    yield Observation(None, cursor, part)
            _report(runtime, follower)
            await _until_something_happens(runtime, notifier, follower.wait_seconds)
    finally:
        notifier.close()


async def _is_safe(
    runtime: Runtime[HostSettings], follower: Follower, known: slots.Slots, tree_id: str
) -> bool:
    """Whether the inventory of every root of the tree is stored."""
    return runtime.bus.is_connected and await slots.are_safe(
        runtime,
        [
            cursor
            for root in follower.roots
            if root.container_id == tree_id and root in known
            for cursor in known.cursors(root)
        ],
    )


async def _until_something_happens(
    runtime: Runtime[HostSettings], notifier: Notifier, seconds: float
) -> None:
    """Waits for a notification, for the stop, or for `seconds`."""
    loop = asyncio.get_running_loop()
    noted = loop.create_future()

    def note() -> None:
        # One is enough: until they are read, the kernel keeps the rest.
        loop.remove_reader(notifier.fileno())
        noted.set_result(None)

    loop.add_reader(notifier.fileno(), note)
    stopping = asyncio.create_task(runtime.stopping.wait())
    try:
        await asyncio.wait((noted, stopping), timeout=seconds, return_when="FIRST_COMPLETED")
        if noted.done():
            with suppress(TimeoutError):
                await asyncio.wait_for(runtime.stopping.wait(), _COALESCE_SECONDS)
    finally:
        loop.remove_reader(notifier.fileno())
        stopping.cancel()


def _count(runtime: Runtime[HostSettings], follower: Follower) -> None:
    """Makes what is known countable."""
    health = runtime.health
    health.add_figure("package_roots", "Places that hold packages.", lambda: len(follower.roots))
    health.add_figure("packages", "Packages known.", lambda: follower.packages)
    health.add_figure(
        "containers_seen", "Running containers that are seen.", lambda: follower.containers
    )


def _report(runtime: Runtime[HostSettings], follower: Follower) -> None:
    """Says how it goes, as a condition of readiness."""
    if failed := follower.failures:
        runtime.health.set_condition("packages", False, f"{failed[0].where}: {failed[0].failure}")
        return
    where = f"{len(follower.roots)} places, {follower.containers} containers"
    detail = f"{follower.packages} packages in {where}"
    runtime.health.set_condition("packages", True, detail)
