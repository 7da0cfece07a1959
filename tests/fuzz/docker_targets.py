"""Decoders of the Docker collector: the engine's messages and answers, and the stored cursor."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

from sematext_agent.docker_collector.buffer import EngineHistory, EventLines, LostEvents
from sematext_agent.docker_collector.engine import Engine, EngineError, Snapshot
from sematext_agent.docker_collector.pipeline import EventPipeline
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.clock import SYSTEM_CLOCK, SystemClock
from sematext_agent.shared.events import decode, encode
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import subject_of

_ADDRESS = "unix:///var/run/docker.sock"
_START = (
    b'{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"name":"web"}},'
    b'"scope":"local","time":1700000000,"timeNano":1700000000000000000}'
)


class _AbsentConnection:
    """A connection whose engine is away."""

    engine = None

    def mark_history_taken(self) -> None: ...
    def request_snapshot(self) -> None: ...
    def reopen_stream(self) -> None: ...


class _EpochClock(SystemClock):
    """A clock at the epoch, so that no recorded message is from before the first run."""

    def wall_ns(self) -> int:
        return 0


def _pipeline(cursor: bytes | None) -> tuple[EventPipeline, EngineState]:
    state = EngineState(_ADDRESS, cursor)
    connection: Any = _AbsentConnection()
    health = Health("docker", "web-01")
    clock = _EpochClock()
    return EventPipeline(DockerSettings(), "m1", state, connection, health, clock), state


async def _process(pipeline: EventPipeline, *items: Any) -> None:
    """Process `items`, and assert that every event can be published and decoded."""
    for item in items:
        async for event in pipeline.process(item):
            if event is not None:
                subject_of(event)
                assert decode(encode(event)) == event


def line(data: bytes) -> None:
    """Process a line of `GET /events`, of the stream and of a history."""
    pipeline, state = _pipeline(None)
    history = EngineHistory(
        [data, _START], 1_700_000_001 * 10**9, Snapshot({}, {}, 1_700_000_001 * 10**9)
    )
    asyncio.run(_process(pipeline, EventLines([data]), history, LostEvents(3)))
    assert not EngineState(_ADDRESS, pipeline.cursor()).is_new
    assert state.latest_ns >= 0


def cursor(data: bytes) -> None:
    """Decode the stored cursor, use it, encode it, and decode it again."""
    pipeline, _ = _pipeline(data)
    now = 1_700_000_001 * 10**9
    items = (
        EngineHistory([_START], now, Snapshot({}, {}, now)),
        LostEvents(1),
        Snapshot({}, {}, now),
    )
    asyncio.run(_process(pipeline, *items))
    assert not EngineState(_ADDRESS, pipeline.cursor()).is_new


def inspected(data: bytes) -> None:
    """Decode an answer of the engine about containers and images."""
    answer = SimpleNamespace(status_code=200, content=data, text="")
    client = SimpleNamespace(get=lambda *_, **__: answer, verify=True, base_url="http://engine")
    engine = object.__new__(Engine)
    engine._client, engine._root = client, "http://engine"
    engine._clock = SYSTEM_CLOCK
    for ask in (
        lambda: engine.container("c1"),
        lambda: engine.image_tags("i1"),
        lambda: engine.snapshot(),
        lambda: engine.history(),
    ):
        with contextlib.suppress(EngineError):
            ask()


TARGETS = {"docker_line": line, "docker_cursor": cursor, "docker_inspected": inspected}
