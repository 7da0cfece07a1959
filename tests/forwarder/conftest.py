"""The parts of the forwarder's tests: see tests/forwarding.py and tests/receiver.py."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Generator
from typing import Any

import pytest
from broker import NatsServer, wait_until
from forwarding import Forwarder, Oracle, Publisher, Start
from receiver import TOKEN, Receiver

from sematext_agent.forwarder import flow_control, peers, pipeline
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import Secret


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Make captured texts encodable: poison in them would end the worker of pytest-xdist."""
    report = yield
    report.sections = [
        (name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections
    ]
    return report


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as opened:
        yield opened


@pytest.fixture
def peer_answer_seconds() -> float:
    """Return how long a forwarder waits for others; tests of several forwarders override it."""
    return 0.05


@pytest.fixture
async def start(
    nats_server: NatsServer,
    receiver: Receiver,
    peer_answer_seconds: float,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Start]:
    monkeypatch.setattr(peers, "ANSWER_SECONDS_MAX", peer_answer_seconds)
    monkeypatch.setattr(pipeline, "QUIET_SECONDS", 0.0)
    monkeypatch.setattr(flow_control, "BACKOFF_FIRST_SECONDS", 0.2)
    monkeypatch.setattr(flow_control, "BACKOFF_SECONDS_MAX", 0.5)
    running: list[Forwarder] = []

    async def begin(**settings: Any) -> Forwarder:
        fields: dict[str, Any] = {
            "nats_url": (nats_server.url,),
            "infra_token": Secret(TOKEN),
            "events_receiver_url": receiver.url,
            "drain_seconds": 3,
            **settings,
        }
        forwarder_settings = ForwarderSettings(**fields)
        connection = await bus.connect(forwarder_settings, "forwarder")
        health = Health("forwarder", "test")
        forwarder = Forwarder(Runtime(forwarder_settings, health, connection, asyncio.Event()))
        running.append(forwarder)
        await asyncio.sleep(0)  # its task begins
        await wait_until(lambda: health.report().conditions["streams"].ok)
        return forwarder

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
