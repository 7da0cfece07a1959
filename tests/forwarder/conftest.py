"""The parts of the forwarder's tests: see tests/forwarding.py and tests/receiver.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest
from broker import NatsServer, eventually
from forwarding import Forwarder, Oracle, Publisher, Start
from receiver import TOKEN, Receiver

from sematext_agent.forwarder import flow, ship
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import Secret


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@pytest.fixture
async def start(
    nats_server: NatsServer, receiver: Receiver, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    monkeypatch.setattr(ship, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(flow, "Backoff", lambda *_: Backoff(0.2, 0.5))
    running: list[Forwarder] = []

    async def begin(**settings: Any) -> Forwarder:
        chosen: dict[str, Any] = {
            "nats_url": (nats_server.url,),
            "infra_token": Secret(TOKEN),
            "events_receiver_url": receiver.url,
            "drain_seconds": 3,
            **settings,
        }
        made = ForwarderSettings(**chosen)
        connection = await bus.connect(made, "forwarder")
        runtime = Runtime(made, Health("forwarder", "test"), connection, asyncio.Event())
        running.append(Forwarder(runtime))
        await asyncio.sleep(0)  # its task begins
        await eventually(lambda: running[-1].health.report().conditions["streams"].ok)
        return running[-1]

    yield begin
    for forwarder in running:
        if not forwarder.task.done():
            await forwarder.stop()


@pytest.fixture
def publisher(connection: bus.Bus) -> Publisher:
    return Publisher(connection)


@pytest.fixture
def verify(publisher: Publisher, receiver: Receiver) -> Oracle:
    return Oracle(publisher, receiver)
