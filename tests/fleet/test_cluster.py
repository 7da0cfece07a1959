"""A thousand hosts on three servers with three replicas, of which one after the other is killed.

`make fleet` runs it at full length, with every server killed in turn; `make test-all` with one.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

from broker import wait_until
from fleet_origins import Origins, settings_for, start_forwarder
from fleet_servers import Cluster, Server
from receiver import Receiver

from sematext_agent.shared import bus

ROUNDS = int(os.environ.get("FLEET_ROUNDS", "1"))
"""Number of servers that are killed, one after the other."""
ORIGINS = 1000
SECONDS = float(os.environ.get("FLEET_SECONDS", "10"))
"""Interval between two events of a host."""


async def find_leader(cluster: Cluster, stream: str) -> Server:
    """Return the server that leads the stream now: its end has the largest effect."""
    connection = await bus.connect(settings_for(cluster.urls), "test")
    try:
        while True:
            # There may be no leader for a moment, or the server that answers was just killed.
            with contextlib.suppress(bus.BusError):
                name = (await connection.request_api(f"STREAM.INFO.{stream}"))["cluster"].get(
                    "leader"
                )
                if name:
                    return next(server for server in cluster.servers if server.name == name)
            await asyncio.sleep(0.2)
    finally:
        await connection.close()


async def test_sigkill_of_a_leader_loses_and_duplicates_nothing_of_a_thousand_hosts(
    cluster: Cluster, receiver: Receiver, tmp_path: Path
) -> None:
    forwarders = [
        start_forwarder(cluster.urls, receiver.url, tmp_path / f"forwarder-{n}", stream_replicas=3)
        for n in range(2)
    ]
    try:
        async with Origins(cluster.urls, ORIGINS, SECONDS) as origins:
            await wait_until(lambda: len(receiver.stored) > ORIGINS // 4, 60)
            for _ in range(ROUNDS):
                server = await find_leader(cluster, "EVENTS")
                await asyncio.to_thread(server.kill)
                before = len(receiver.stored)
                await wait_until(lambda: len(receiver.stored) > before + 100, 60)  # noqa: B023
                await asyncio.to_thread(server.start)
                await asyncio.to_thread(server.wait_until_healthy)
            await origins.stop()
            await wait_until(lambda: origins.obligations.keys() <= receiver.stored.keys(), 60)
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
    assert receiver.stored.keys() == origins.obligations.keys()
    assert {event for event, times in receiver.stored.items() if times > 1} == set()
