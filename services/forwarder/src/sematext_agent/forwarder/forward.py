"""The forwarder's work: pull, ship, look after the streams, and end in order."""

from __future__ import annotations

import asyncio
import gc
import logging

from sematext_agent.forwarder.document import show_documents
from sematext_agent.forwarder.facts import Facts
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.ship import Shipper
from sematext_agent.forwarder.streams import Streams
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)


async def forward(runtime: Runtime[ForwarderSettings]) -> None:
    """Ships every event of the stream, until the process is told to stop."""
    settings, bus = runtime.settings, runtime.bus
    # What was made at start stays: the collector of garbage need not look at it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000)
    transport = Transport(settings) if settings.infra_token else None
    if transport is None:
        log.warning("no INFRA_TOKEN: running dry, every document is printed and none is sent")
    else:
        log.info("events go to %s", settings.receiver)
    facts = Facts(bus, settings.nats_domain)
    streams = Streams(bus, settings, runtime.health)
    try:
        async with asyncio.TaskGroup() as tasks:
            shipper = Shipper(runtime, streams.puller, facts, transport, tasks)
            if transport is None:
                runtime.health.set_condition(
                    "receiver", True, "dry run: without INFRA_TOKEN nothing is sent"
                )
            helpers = [
                tasks.create_task(streams.keep(), name="streams"),
                tasks.create_task(facts.refresh(), name="facts"),
                tasks.create_task(shipper.work(), name="ship"),
                tasks.create_task(shipper.settle_doubts(), name="doubts"),
                tasks.create_task(shipper.stay_in_progress(), name="in progress"),
                tasks.create_task(_pull_ahead(shipper, streams), name="pull ahead"),
            ]
            pulling = tasks.create_task(_pull(shipper, streams, facts), name="pull")
            end_showing = await show_documents(bus, facts, settings)
            await runtime.stopping.wait()
            await end_showing()
            await _end(shipper, streams, pulling, settings.drain_seconds)
            for helper in helpers:
                helper.cancel()
    finally:
        if transport is not None:
            transport.close()


async def _pull(shipper: Shipper, streams: Streams, facts: Facts) -> None:
    await asyncio.gather(streams.made.wait(), shipper.meet_others())
    await facts.preload()
    async for message in streams.puller:
        if not await streams.overtaking.passes_over(message):
            shipper.take(message, streams.puller)


async def _pull_ahead(shipper: Shipper, streams: Streams) -> None:
    async for puller in streams.overtaking.pullers():
        with shipper.sharing_room(puller):
            async for message in puller:
                shipper.take(message, puller)


async def _end(
    shipper: Shipper, streams: Streams, pulling: asyncio.Task[None], seconds: float
) -> None:
    clock = asyncio.get_running_loop().time
    begun = clock()
    await shipper.drain(seconds)
    streams.puller.stop()
    streams.overtaking.stop()
    _, late = await asyncio.wait([pulling], timeout=1)
    for task in late:
        task.cancel()
    await shipper.stop(max(1.0, begun + seconds - clock()))
