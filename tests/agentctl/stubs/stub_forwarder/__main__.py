"""A stub of the forwarder: it creates the streams, and lists deliveries in the file DELIVERED.

Each delivery takes DELIVER_SECONDS. A stop leaves the events that are not delivered by then.
"""

import asyncio
import os
from pathlib import Path

from sematext_agent.shared.bus import ConsumerConfig, StreamConfig
from sematext_agent.shared.service import Runtime, run
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    EVENTS_STREAM,
    EVENTS_SUBJECTS,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
)


def deliver(subject: str) -> None:
    with Path(os.environ["DELIVERED"]).open("a") as delivered:
        delivered.write(f"{subject}\n")


async def work(runtime: Runtime[ServiceSettings]) -> None:
    manager = runtime.bus.manager
    await manager.add_stream(StreamConfig(name=EVENTS_STREAM, subjects=[EVENTS_SUBJECTS]))
    for bucket in (CURSORS_BUCKET, HOSTS_BUCKET):
        await manager.create_key_value(bucket=bucket, direct=True)
    consumer = ConsumerConfig(name=FORWARDER_CONSUMER, durable_name=FORWARDER_CONSUMER)
    await manager.add_consumer(EVENTS_STREAM, consumer)
    puller = runtime.bus.create_puller(EVENTS_STREAM, FORWARDER_CONSUMER, window=16)
    stopping = asyncio.create_task(runtime.stopping.wait())
    stopping.add_done_callback(lambda _: puller.stop())
    async for message in puller:
        await asyncio.sleep(float(os.environ.get("DELIVER_SECONDS", "0")))
        if runtime.stopping.is_set():
            break
        deliver(message.subject)
        await runtime.bus.acknowledge(message)


run("forwarder", work, ServiceSettings)
