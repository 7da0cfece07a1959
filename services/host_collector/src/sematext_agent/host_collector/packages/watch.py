"""The watch of the packages of the host and of its running containers.

Between two rounds of scanning, which run in a worker thread, it waits for a notification of the
kernel, for a few seconds at most.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable

from sematext_agent.host_collector.packages.inventory_store import (
    InventoryStore,
    are_stored,
    load_store,
)
from sematext_agent.host_collector.packages.scanner import PackageScanner
from sematext_agent.host_collector.packages.translate import translate
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.waiting import run_until_event, wait_for_event

_COALESCE_SECONDS = 0.1
"""Pause between the first notification and the round, so that it sees what else changed."""

Wait = Callable[[asyncio.Event, DirectoryWatcher, float], Awaitable[None]]


async def wait_for_change(
    stopping: asyncio.Event, watcher: DirectoryWatcher, seconds: float
) -> None:
    """Wait for a notification, for the stop, or for `seconds`."""
    loop = asyncio.get_running_loop()
    notified = asyncio.Event()

    def on_readable() -> None:
        # The kernel keeps further notifications until they are read.
        loop.remove_reader(watcher.fileno())
        notified.set()

    loop.add_reader(watcher.fileno(), on_readable)
    try:
        await run_until_event(stopping, wait_for_event(notified, seconds))
        if notified.is_set():
            await wait_for_event(stopping, _COALESCE_SECONDS)
    finally:
        loop.remove_reader(watcher.fileno())


async def watch(
    runtime: Runtime[HostSettings], wait: Wait = wait_for_change
) -> AsyncGenerator[Observation, None]:
    """Yield every package that is installed or removed, until `runtime.stopping` is set.

    The cursors are the inventories of the roots, see `inventory_store`; the last event of a root's
    changes comes with the cursor that holds them. What was installed before the first run is the
    baseline. `wait` waits between two rounds.

    Raises:
        SettingsError: `HOST_ROOT` is no directory.
    """
    store = await load_store(runtime)
    watcher = DirectoryWatcher()
    try:
        scanner = await asyncio.to_thread(
            PackageScanner, runtime.settings, store, watcher, runtime.clock
        )
        _add_figures(runtime, scanner)
        while not runtime.stopping.is_set():
            for diff in await asyncio.to_thread(scanner.scan):
                for observation in translate(diff):
                    yield observation
            for container_id in scanner.new_baselines():
                if await _is_stored(runtime, scanner, store, container_id):
                    store.baselines.add(container_id)
                    name, cursor = store.index()
                    yield Observation(None, cursor, name)
            _report(runtime, scanner)
            await wait(runtime.stopping, watcher, scanner.wait_seconds)
    finally:
        watcher.close()


async def _is_stored(
    runtime: Runtime[HostSettings],
    scanner: PackageScanner,
    store: InventoryStore,
    container_id: str,
) -> bool:
    """Return whether the inventory of every root of the file system is stored."""
    return runtime.bus.is_connected and await are_stored(
        runtime,
        [
            cursor
            for root in scanner.roots
            if root.container_id == container_id and root in store
            for cursor in store.cursors(root)
        ],
    )


def _add_figures(runtime: Runtime[HostSettings], scanner: PackageScanner) -> None:
    health = runtime.health
    health.add_figure(
        "package_scan_roots", "Directories that hold packages.", lambda: len(scanner.roots)
    )
    health.add_figure("packages", "Packages installed in them.", lambda: scanner.packages)
    health.add_figure(
        "containers_scanned", "Running containers that are scanned.", lambda: scanner.containers
    )


def _report(runtime: Runtime[HostSettings], scanner: PackageScanner) -> None:
    """Set the condition `packages` of the service's health."""
    if failures := scanner.failures:
        detail = f"{failures[0].label}: {failures[0].failure}"
        runtime.health.set_condition("packages", False, detail)
        return
    places = f"{len(scanner.roots)} scan roots, {scanner.containers} containers"
    runtime.health.set_condition("packages", True, f"{scanner.packages} packages in {places}")
