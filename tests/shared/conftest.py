"""A connection with the stream of events, for the tests of the bus."""

from __future__ import annotations

import pytest
from nats.js.api import DiscardPolicy

from sematext_agent.shared.bus import Bus, ConsumerConfig, StreamConfig


@pytest.fixture
async def stream(connection: Bus) -> Bus:
    """Return a connection whose server has a stream EVENTS and a consumer `forwarder`."""
    config = StreamConfig(
        name="EVENTS", subjects=["events.>"], max_bytes=100_000, discard=DiscardPolicy.NEW
    )
    await connection.manager.add_stream(config)
    await connection.manager.add_consumer("EVENTS", ConsumerConfig(durable_name="forwarder"))
    return connection
