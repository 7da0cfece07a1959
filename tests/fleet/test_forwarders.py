"""Several forwarders on one durable consumer share its events; one that is killed costs no event,
and only what it had in flight is told twice."""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from broker import NatsServer, eventually
from fleet_origins import Origins, start_forwarder
from receiver import Receiver, Reply, Request

from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX

FORWARDERS = 3


async def test_one_of_several_is_killed(
    nats_server: NatsServer, receiver: Receiver, tmp_path: Path
) -> None:
    came: dict[str, float] = {}

    def reply(request: Request) -> Reply:
        came.setdefault(request.document["event.id"], time.monotonic())
        return Reply(seconds=0.05)

    receiver.reply = reply
    forwarders = [
        start_forwarder([nats_server.url], receiver.url, tmp_path / f"forwarder-{number}")
        for number in range(FORWARDERS)
    ]
    try:
        async with Origins([nats_server.url], 100, 0.5) as origins:
            await eventually(lambda: len(receiver.stored) > 500, 60)
            forwarders[0].kill()
            killed_at = time.monotonic()
            in_flight = receiver.in_flight
            await asyncio.sleep(2)
            await origins.stop()
            await eventually(lambda: receiver.stored.keys() >= origins.told.keys(), 60)
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
    assert receiver.stored.keys() == origins.told.keys()
    twice = {event for event, times in receiver.stored.items() if times > 1}
    assert len(twice) <= min(in_flight, IN_FLIGHT_MAX)
    assert all(killed_at - came[event] < 2 for event in twice)
