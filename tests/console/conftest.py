"""The live page within the test's own process, over a real nats-server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker import NatsServer, free_port, wait_for_port
from console_page import OpenPage, PageClient

from sematext_agent.console.__main__ import work
from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime


@pytest.fixture
async def open_page(connection: Bus, nats_server: NatsServer) -> AsyncIterator[OpenPage]:
    """Return a function that serves the page, with further settings, until the test ends."""
    pages: list[tuple[PageClient, asyncio.Task[None]]] = []

    async def serve(**settings: Any) -> PageClient:
        values: dict[str, Any] = {
            "nats_url": (nats_server.url,),
            "console_port": free_port(),
        } | settings
        health = Health("console", "web-01")
        runtime = Runtime(ConsoleSettings(**values), health, connection, asyncio.Event())
        task = asyncio.create_task(run(runtime))
        page = PageClient(runtime)
        pages.append((page, task))
        await asyncio.to_thread(wait_for_port, page.port)
        return page

    async def run(runtime: Runtime[ConsoleSettings]) -> None:
        await work(runtime)

    yield serve
    for page, task in pages:
        page.stopping.set()
        await asyncio.wait_for(task, 10)


@pytest.fixture
async def streams(connection: Bus) -> Bus:
    """Create the streams of a forwarder."""
    await connection.manager.add_stream(
        StreamConfig(name="EVENTS", subjects=["events.>"], max_bytes=2**26, allow_direct=True)
    )
    await connection.manager.add_stream(StreamConfig(name="DEAD", subjects=["dead.>"]))
    return connection
