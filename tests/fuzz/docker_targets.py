"""What the Docker Engine says, and the collector's own cursor read back."""

from __future__ import annotations

import asyncio
import contextlib
from types import SimpleNamespace
from typing import Any

from sematext_agent.docker_collector.backlog import Lines, Lost, Ring
from sematext_agent.docker_collector.engine import Engine, EngineError, Snapshot
from sematext_agent.docker_collector.follow import Follower
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import State
from sematext_agent.shared.events import decode, encode
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import subject_of

_ADDRESS = "unix:///var/run/docker.sock"
_START = (
    b'{"Type":"container","Action":"start","Actor":{"ID":"c1","Attributes":{"name":"web"}},'
    b'"scope":"local","time":1700000000,"timeNano":1700000000000000000}'
)


class _NoConnection:
    """An engine that is away."""

    engine = None

    def ring_taken(self) -> None: ...
    def want_snapshot(self) -> None: ...
    def renew(self) -> None: ...


def _follower(cursor: bytes | None) -> tuple[Follower, State]:
    state = State(_ADDRESS, cursor)
    connection: Any = _NoConnection()
    health = Health("docker", "web-01")
    return Follower(DockerSettings(), "m1", 0, state, connection, health), state


async def _take(follower: Follower, *items: Any) -> None:
    """Everything that the items tell can be published and read again."""
    for item in items:
        async for event in follower.take(item):
            if event is not None:
                subject_of(event)
                assert decode(encode(event)) == event


def line(data: bytes) -> None:
    """A line of `GET /events`, from the stream and from what the engine remembers."""
    follower, state = _follower(None)
    ring = Ring([data, _START], 1_700_000_001 * 10**9, Snapshot({}, {}, 1_700_000_001 * 10**9))
    asyncio.run(_take(follower, Lines([data]), ring, Lost(3)))
    assert not State(_ADDRESS, follower.cursor()).is_new
    assert state.latest >= 0


def cursor(data: bytes) -> None:
    """The stored cursor: read, used, written, and read again."""
    follower, _ = _follower(data)
    now = 1_700_000_001 * 10**9
    items = Ring([_START], now, Snapshot({}, {}, now)), Lost(1), Snapshot({}, {}, now)
    asyncio.run(_take(follower, *items))
    assert not State(_ADDRESS, follower.cursor()).is_new


def inspected(data: bytes) -> None:
    """The engine's answers about containers and images."""
    answer = SimpleNamespace(status_code=200, content=data, text="")
    client = SimpleNamespace(get=lambda *_, **__: answer, verify=True, base_url="http://engine")
    engine = object.__new__(Engine)
    engine._client, engine._root = client, "http://engine"  # type: ignore[assignment]
    for ask in (
        lambda: engine.container("c1"),
        lambda: engine.image_tags("i1"),
        lambda: engine.snapshot(),
        lambda: engine.ring(),
    ):
        with contextlib.suppress(EngineError):
            ask()


TARGETS = {"docker_line": line, "docker_cursor": cursor, "docker_inspected": inspected}
