"""The watch of the Docker Engine: the generator that the collector's runner reads.

    engine ─┬─> reader (a thread) ────┬─> buffer ─> pipeline ─> runner ─> bus
            └─> connection (a task) ──┘

The reader moves the stream; the connection opens it, and asks for lists and for the history.

On a first run, events that the engine remembers from before become no events.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

from sematext_agent.docker_collector.buffer import EngineBuffer
from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.engine import client_arguments
from sematext_agent.docker_collector.pipeline import EventPipeline
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.waiting import run_until_event

CURSOR_SECONDS_MIN = 0.1
"""Least time between two cursors; events in between share the later one."""


async def watch(
    runtime: Runtime[DockerSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    """Yield the events of the engine from `cursor` on, until the runtime stops."""
    if not runtime.settings.container_events_enabled:
        runtime.health.set_condition("source", True, "off: CONTAINER_EVENTS_ENABLED is false")
        await runtime.stopping.wait()
        return
    buffer, connection, pipeline = _build(runtime, cursor)
    reading = asyncio.create_task(_read(runtime.stopping, connection, buffer), name="engine")
    pace = CursorPace(runtime.clock)
    try:
        while True:
            try:
                item = await buffer.take(pace.wait_seconds())
            except TimeoutError:
                yield Observation(None, pace.restart(pipeline.cursor()))
                continue
            if item is None:
                break
            async for event in pipeline.process(item):
                is_cursor_ready = pace.advance()
                if event is not None or is_cursor_ready:
                    next_cursor = pace.restart(pipeline.cursor()) if is_cursor_ready else None
                    yield Observation(event, next_cursor)
        if pace.is_behind:
            yield Observation(None, pipeline.cursor())
        await reading  # Raises the fault that ended the connection, if it was not the stop.
    finally:
        reading.cancel()
        pipeline.close()
        await asyncio.wait((reading,))


def _build(
    runtime: Runtime[DockerSettings], cursor: bytes | None
) -> tuple[EngineBuffer, EngineConnection, EventPipeline]:
    settings, health, clock = runtime.settings, runtime.health, runtime.clock
    state = EngineState(str(client_arguments(settings)["base_url"]), cursor)
    buffer = EngineBuffer()
    health.add_figure("backlog_messages", "Messages read and not yet processed.", buffer.__len__)
    connection = EngineConnection(settings, state, buffer, health, clock, runtime.uniform)
    pipeline = EventPipeline(settings, _host_identity(settings), state, connection, health, clock)
    return buffer, connection, pipeline


async def _read(
    stopping: asyncio.Event, connection: EngineConnection, buffer: EngineBuffer
) -> None:
    """Fill the buffer until the service stops, then close it."""
    try:
        await run_until_event(stopping, connection.stay_connected())
    finally:
        buffer.close()


class CursorPace:
    """The pace of cursors: encoding one for every event would cost more than the event."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._last_at = 0.0
        self.is_behind = False
        """True where something was processed since the last cursor."""

    def advance(self) -> bool:
        """Record progress; return whether it is time for a cursor."""
        self.is_behind = True
        return self._clock.monotonic() >= self._last_at + CURSOR_SECONDS_MIN

    def wait_seconds(self) -> float | None:
        """Return the time until a cursor follows the progress so far; None without progress."""
        if not self.is_behind:
            return None
        return max(0.0, self._last_at + CURSOR_SECONDS_MIN - self._clock.monotonic())

    def restart(self, cursor: bytes) -> bytes:
        """Begin the time until the next cursor, and return `cursor`."""
        self.is_behind = False
        self._last_at = self._clock.monotonic()
        return cursor


def _host_identity(settings: DockerSettings) -> str:
    """Return this host's identity in event ids; cloned machines share the engine's id."""
    machine_id = Path(settings.host_root or "/", "etc/machine-id")
    try:
        return machine_id.read_text().strip() or settings.hostname
    except OSError:
        return settings.hostname
