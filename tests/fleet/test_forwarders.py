"""Several forwarders on one durable consumer, of which one is killed.

No event is lost, and only the events that it had in flight are delivered twice.
"""

from __future__ import annotations

import asyncio
import time
from pathlib import Path

from broker import NatsServer, wait_until
from fleet_origins import Origins, start_forwarder
from receiver import Receiver, Reply, Request

from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX

FORWARDERS = 3


async def test_sigkill_of_a_forwarder_duplicates_at_most_its_events_in_flight(
    nats_server: NatsServer, receiver: Receiver, tmp_path: Path
) -> None:
    arrivals: dict[str, float] = {}

    def reply(request: Request) -> Reply:
        arrivals.setdefault(request.document["event.id"], time.monotonic())
        return Reply(seconds=0.05)

    receiver.reply = reply
    forwarders = [
        start_forwarder([nats_server.url], receiver.url, tmp_path / f"forwarder-{number}")
        for number in range(FORWARDERS)
    ]
    try:
        async with Origins([nats_server.url], 100, 0.5) as origins:
            await wait_until(lambda: len(receiver.stored) > 500, 60)
            forwarders[0].kill()
            killed_at = time.monotonic()
            in_flight = receiver.in_flight
            await asyncio.sleep(2)
            await origins.stop()
            await wait_until(lambda: receiver.stored.keys() >= origins.obligations.keys(), 60)
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
    assert receiver.stored.keys() == origins.obligations.keys()
    duplicates = {event for event, times in receiver.stored.items() if times > 1}
    assert len(duplicates) <= min(in_flight, IN_FLIGHT_MAX)
    assert all(killed_at - arrivals[event] < 2 for event in duplicates)
