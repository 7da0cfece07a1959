"""A request to the bus can be cancelled; and a service can name another source than its host."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from nats.aio.client import Client

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET


async def test_a_cancellation_together_with_the_answer_is_not_lost(
    connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `asyncio.wait_for` of Python 3.11 does by chance is done here always."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    await connection.put(CURSORS_BUCKET, "here", b"1")
    request = Client.request

    async def losing(client: Client, *arguments: Any, **options: Any) -> Any:
        answer = asyncio.ensure_future(request(client, *arguments, **options))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            return await answer

    monkeypatch.setattr(Client, "request", losing)
    reading = asyncio.create_task(connection.get(CURSORS_BUCKET, "here"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await connection.get(CURSORS_BUCKET, "here") == b"1"


async def test_a_service_can_name_its_source_for_cursors_and_health(connection: Bus) -> None:
    """Replicas that watch one source from several hosts share its cursor."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    stopping, health = asyncio.Event(), Health("test", "host-1")

    async def watch(
        runtime: Runtime[ServiceSettings], _: bytes | None
    ) -> AsyncIterator[Observation]:
        yield Observation(None, b"1")
        stopping.set()

    runtime = Runtime(ServiceSettings(), health, connection, stopping)
    assert runtime.origin == "host-1"
    runtime.origin = "cluster"
    await collect(watch)(runtime)
    assert await connection.get(CURSORS_BUCKET, "test.cluster") == b"1"
    assert health.report().origin == "cluster"


async def test_a_collector_that_is_stopped_while_it_starts_still_tells_what_it_has(
    connection: Bus,
) -> None:
    """The stop of the agent, for one."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    stopping = asyncio.Event()
    stopping.set()

    async def watch(
        runtime: Runtime[ServiceSettings], _: bytes | None
    ) -> AsyncIterator[Observation]:
        yield Observation(None, b"told")

    runtime = Runtime(ServiceSettings(), Health("test", "here"), connection, stopping)
    await collect(watch)(runtime)
    assert await connection.get(CURSORS_BUCKET, "test.here") == b"told"
