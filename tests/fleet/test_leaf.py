"""Sites with a server of their own: they accept events while the hub is away, and lose none.

`FLEET_OUTAGE_SECONDS` is the length of the outage; docs/scaling.md has figures for minutes.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
from broker import wait_until
from fleet_origins import Origins, settings_for, start_forwarder
from fleet_servers import Cluster
from forwarding import dead_letters
from receiver import Receiver, Reply, Request

from sematext_agent.shared import bus
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.subjects import HOSTS_BUCKET

OUTAGE_SECONDS = float(os.environ.get("FLEET_OUTAGE_SECONDS", "5"))
HOSTS_OF_A_SITE = 20
SECONDS = 2.0
"""Interval between two events of a host."""
WITH_FACTS, REFUSED = "host-a-0000", "host-b-0001"
"""A host with facts at its site, and a host whose first events the receiver refuses."""
REFUSED_EVENTS = 5


async def write_facts(url: str, origin: str) -> None:
    """Write the facts of a host as its lifecycle collector does, once there is a bucket."""
    connection = await bus.connect(settings_for([url]), "facts")
    await connection.wait_until_ready(HOSTS_BUCKET)
    facts = HostFacts(hostname=origin, distro_name="leafian")
    await connection.put(HOSTS_BUCKET, origin, msgspec.json.encode(facts))
    await connection.close()


async def read_dead_letter_ids(connection: bus.Bus) -> list[str]:
    """Return the ids of the dead letters at the hub, each as often as it is there."""
    letters = await dead_letters(connection)
    return sorted(letter["headers"]["Nats-Msg-Id"] for letter in letters)


async def test_sites_accept_events_while_the_hub_is_away(
    cluster: Cluster, receiver: Receiver, tmp_path: Path
) -> None:
    """Two sites and the hub use the same names, and no message crosses between them."""
    refused: set[str] = set()

    def reply(request: Request) -> Reply:
        event, host = request.document["event.id"], request.document["os.host"]
        if event in refused or (host == REFUSED and len(refused) < REFUSED_EVENTS):
            refused.add(event)
            return Reply(400)
        return Reply()

    receiver.reply = reply
    sites = [cluster.leaf(f"site-{name}", tmp_path / name) for name in "ab"]
    for site in sites:
        site.start()
    forwarders = [
        start_forwarder(cluster.urls, receiver.url, tmp_path / "forwarder", stream_replicas=3),
        *(
            start_forwarder(
                cluster.urls,
                receiver.url,
                tmp_path / f"forwarder-{site.name}",
                nats_domain=site.name,
            )
            for site in sites
        ),
    ]
    origins_a = Origins([sites[0].url], HOSTS_OF_A_SITE, SECONDS, "host-a")
    origins_b = Origins([sites[1].url], HOSTS_OF_A_SITE, SECONDS, "host-b")
    direct = Origins(cluster.urls, HOSTS_OF_A_SITE, SECONDS, "host-c")
    try:
        await write_facts(sites[0].url, WITH_FACTS)
        async with origins_a, origins_b, direct:
            await wait_until(lambda: len(receiver.stored) > HOSTS_OF_A_SITE * 6, 60)
            await asyncio.to_thread(cluster.kill)
            before = len(receiver.stored)
            await asyncio.sleep(OUTAGE_SECONDS)
            # The site has stored the events meanwhile: its collectors can stop.
            await origins_a.stop()
            await asyncio.to_thread(cluster.start)
            restarted = time.monotonic()
            await origins_b.stop()
            await direct.stop()
            obligations = origins_a.obligations | origins_b.obligations | direct.obligations
            # The receiver may refuse some only now.
            await wait_until(lambda: receiver.stored.keys() >= obligations.keys() - refused, 120)
            print(
                f"outage of {OUTAGE_SECONDS:.0f} s, {len(obligations) - before} events behind, "
                f"all delivered {time.monotonic() - restarted:.1f} s after the restart of the hub"
            )
            connection = await bus.connect(settings_for(cluster.urls), "test")
            assert await read_dead_letter_ids(connection) == sorted(refused)
            await connection.close()
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
        for site in sites:
            site.kill()
    assert receiver.stored.keys() == obligations.keys() - refused
    assert {event for event, times in receiver.stored.items() if times > 1} == set()
    documents = [d for d in receiver.documents if d["os.host"] == WITH_FACTS]
    assert documents[-1]["os.distro.name"] == "leafian"
