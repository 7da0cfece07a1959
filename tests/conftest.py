"""The real parts that tests stand on: a nats-server of their own, and a bus to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from broker import NatsServer

from shared import bus
from shared.settings import ServiceSettings


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    store = tmp_path / "nats"
    store.mkdir()
    server = NatsServer(store)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[bus.Bus]:
    """A bus to the server of this test."""
    connected = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "test")
    yield connected
    await connected.close()
