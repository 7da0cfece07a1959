"""The watch of the Docker Engine: what the collector's runner takes from.

    engine ──> reader (a thread) ──> backlog ──> follower ──> runner ──> bus
                connection (a task): connects, lists, audits ┘

On the very first run it begins with that moment: what the engine remembers from before is not told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from pathlib import Path

from sematext_agent.docker_collector.backlog import Backlog, Item
from sematext_agent.docker_collector.connection import Connection
from sematext_agent.docker_collector.engine import where
from sematext_agent.docker_collector.follow import Follower
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import State
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.service import Runtime

CURSOR_SECONDS_MIN = 0.1
"""How long at least between two cursors; events in between share the later one."""


async def watch(
    runtime: Runtime[DockerSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    """What happens at the engine, from `cursor` on, until the runtime stops."""
    settings, health = runtime.settings, runtime.health
    if not settings.container_events_enabled:
        health.set_condition("source", True, "off: CONTAINER_EVENTS_ENABLED is false")
        await runtime.stopping.wait()
        return
    started = time.time_ns()
    state = State(str(where(settings)["base_url"]), cursor)
    backlog = Backlog()
    health.add_figure(
        "backlog_messages", "Messages read and not yet on their way.", backlog.__len__
    )
    connection = Connection(settings, state, backlog, health)
    follower = Follower(settings, _host(settings), started, state, connection, health)
    keeping = asyncio.create_task(connection.keep(), name="engine")
    ending = asyncio.create_task(_end(runtime.stopping, keeping, backlog), name="end")
    pace = _Pace()
    try:
        while (item := await _next(backlog, pace)) is not None:
            if isinstance(item, _Idle):
                yield Observation(None, pace.mark(follower.cursor()))
                continue
            async for event in follower.take(item):
                due = pace.is_due()
                if event is not None or due:
                    yield Observation(event, pace.mark(follower.cursor()) if due else None)
        if pace.behind:
            yield Observation(None, follower.cursor())
        await ending  # Raises what ended the connection, if it was not the stop.
    finally:
        ending.cancel()
        keeping.cancel()
        await asyncio.wait((ending, keeping))


class _Idle:
    """Nothing is left to take, and a cursor is due."""


class _Pace:
    """When a cursor is due: encoding one for every event would cost more than the event."""

    def __init__(self) -> None:
        self.behind = False
        """Whether anything was taken since the last cursor."""
        self._last = 0.0

    def is_due(self) -> bool:
        """Counts something taken; says whether the time for a cursor has come."""
        self.behind = True
        return self.seconds_left() <= 0

    def seconds_left(self) -> float:
        """How long until the next cursor may be made."""
        return self._last + CURSOR_SECONDS_MIN - time.monotonic()

    def mark(self, cursor: bytes) -> bytes:
        """Notes that `cursor` was made now."""
        self.behind = False
        self._last = time.monotonic()
        return cursor


async def _next(backlog: Backlog, pace: _Pace) -> Item | _Idle | None:
    """The next item; or that it is time for the cursor of the items before."""
    try:
        return await backlog.take(max(0.0, pace.seconds_left()) if pace.behind else None)
    except TimeoutError:
        return _Idle()


async def _end(stopping: asyncio.Event, keeping: asyncio.Task[None], backlog: Backlog) -> None:
    """Ends the reading when the service stops, and the backlog when the reading has ended."""
    stopped = asyncio.create_task(stopping.wait())
    await asyncio.wait((stopped, keeping), return_when=asyncio.FIRST_COMPLETED)
    stopped.cancel()
    keeping.cancel()
    await asyncio.wait((keeping,))
    backlog.close()
    if not keeping.cancelled():
        keeping.result()


def _host(settings: DockerSettings) -> str:
    """What names this host in event ids: not the engine's id, which cloned machines share."""
    machine_id = Path(settings.host_root or "/", "etc/machine-id")
    try:
        return machine_id.read_text().strip() or settings.hostname
    except OSError:
        return settings.hostname
