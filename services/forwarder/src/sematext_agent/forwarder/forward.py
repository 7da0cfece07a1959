"""The forwarder's work: pull events, deliver them, keep the streams, and end in order."""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable

from sematext_agent.forwarder.destination import Destination
from sematext_agent.forwarder.dry_run import DryRun
from sematext_agent.forwarder.flow_control import Uniform
from sematext_agent.forwarder.host_facts import HostFactsCache
from sematext_agent.forwarder.pipeline import Pipeline
from sematext_agent.forwarder.preview import answer_previews
from sematext_agent.forwarder.sematext import Sematext
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.streams import StreamKeeper
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

_GARBAGE_THRESHOLD = 10_000


def create_destination(settings: ForwarderSettings) -> Destination:
    """Return the destination of the settings: Sematext, or a dry run without a token.

    Raises:
        SettingsError: the authority's file cannot be used.
    """
    if not settings.infra_token:
        log.warning("dry run: no INFRA_TOKEN, so documents go to standard output only (set it)")
        return DryRun(settings)
    log.info("events go to %s", settings.receiver)
    return Sematext(settings, Transport(settings))


async def forward(
    runtime: Runtime[ForwarderSettings],
    create_destination: Callable[[ForwarderSettings], Destination] = create_destination,
    uniform: Uniform | None = None,
) -> None:
    """Deliver every event of the stream until the service is asked to stop.

    `create_destination` and `uniform`, in place of `random.uniform`, are for tests.
    """
    settings, bus, stopping = runtime.settings, runtime.bus, runtime.stopping
    _tune_garbage_collector()
    destination = create_destination(settings)
    facts = HostFactsCache(bus, settings.nats_domain, runtime.clock)
    streams = StreamKeeper(bus, settings, runtime.health, runtime.clock)
    try:
        async with asyncio.TaskGroup() as tasks:
            pipeline = Pipeline(runtime, streams.puller, facts, destination, tasks, uniform)
            pipeline.identity.on_change.append(streams.forget_sequences)
            helpers = [
                tasks.create_task(streams.keep(), name="streams"),
                tasks.create_task(facts.refresh(), name="facts"),
                tasks.create_task(_pull_overtaking(pipeline, streams), name="pull overtaking"),
                *pipeline.start(tasks),
            ]
            pulling = tasks.create_task(_pull(pipeline, streams, facts), name="pull")
            end_previews = await answer_previews(bus, destination, facts, settings)
            await stopping.wait()
            await end_previews()
            await _end(pipeline, streams, pulling, runtime)
            for helper in helpers:
                helper.cancel()
    finally:
        destination.close()


def _tune_garbage_collector() -> None:
    """Exempt what was made at the start, which stays, from collection."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_GARBAGE_THRESHOLD)


async def _pull(pipeline: Pipeline, streams: StreamKeeper, facts: HostFactsCache) -> None:
    await asyncio.gather(streams.ready.wait(), pipeline.deduplication.discover_peers())
    await facts.preload()
    async for message in streams.puller:
        if await pipeline.identity.admit(message) and not await streams.overtaking.skip(message):
            pipeline.intake.receive(message, streams.puller)


async def _pull_overtaking(pipeline: Pipeline, streams: StreamKeeper) -> None:
    async for puller in streams.overtaking.pullers():
        with pipeline.in_flight.share_window(puller):
            async for message in puller:
                if await pipeline.identity.admit(message):
                    pipeline.intake.receive(message, puller)


async def _end(
    pipeline: Pipeline,
    streams: StreamKeeper,
    pulling: asyncio.Task[None],
    runtime: Runtime[ForwarderSettings],
) -> None:
    clock, seconds = runtime.clock, runtime.settings.drain_seconds
    begun = clock.monotonic()
    await pipeline.drain(seconds)
    streams.puller.stop()
    streams.overtaking.stop()
    _, unfinished = await asyncio.wait([pulling], timeout=1)
    for task in unfinished:
        task.cancel()
    await pipeline.stop(max(1.0, begun + seconds - clock.monotonic()))
