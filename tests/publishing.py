"""A collector of the test's own: it publishes Docker events, each until it is acknowledged."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
from broker import wait_until

from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.shared import bus
from sematext_agent.shared.events import DockerEvent, Event, format_rfc3339
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import subject_of

PADDING = {"name": "x" * 10_000}
"""An event takes more than the last page of a file has left on a full disk."""


@asynccontextmanager
async def connect(url: str, user: str, password: str) -> AsyncIterator[bus.Bus]:
    """Yield a connection to the broker."""
    settings = ServiceSettings(nats_url=(url,), nats_user=user, nats_password=Secret(password))
    connection = await bus.connect(settings, "test")
    try:
        yield connection
    finally:
        await connection.close()


async def publish(connection: bus.Bus, name: str) -> None:
    """Publish an event whose id is `name`."""
    body = DockerEvent(type="container", action="start", actor_id="0" * 64, attributes=PADDING)
    event = Event(id=name, time=format_rfc3339(0), origin="web-01", agent="1", body=body)
    while True:
        try:
            await connection.publish(subject_of(event), msgspec.json.encode(event), event.id)
            return
        except bus.BusError:
            await asyncio.sleep(0.1)


async def is_refused(connection: bus.Bus, name: str) -> bool:
    """Return whether a broker that is there does not acknowledge an event within two seconds."""
    await wait_until(lambda: connection.is_connected, 30)
    try:
        await asyncio.wait_for(publish(connection, name), 2)
    except TimeoutError:
        return True
    return False


async def create_streams(connection: bus.Bus) -> None:
    """Create the streams and buckets, as the forwarder does."""
    for config in stream_configs(ForwarderSettings()):
        await connection.request_api(f"STREAM.CREATE.{config['name']}", config)
