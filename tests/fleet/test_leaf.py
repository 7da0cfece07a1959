"""A site with a server of its own: it keeps accepting while the hub is away, and loses nothing.

`FLEET_OUTAGE_SECONDS` says for how long the hub is away; docs/scaling.md has what minutes give.
"""

from __future__ import annotations

import asyncio
import os
import time
from pathlib import Path

import msgspec
from broker import eventually
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
"""How often each host tells an event."""
KNOWN, REFUSED = "host-a-0000", "host-b-0001"
"""A host whose facts are known at its site, and one whose first events the receiver refuses."""
REFUSED_EVENTS = 5


async def write_facts(url: str, origin: str) -> None:
    """What the lifecycle collector of a host writes at its start, once there is a bucket."""
    connection = await bus.connect(settings_for([url]), "facts")
    await connection.wait_until_ready(HOSTS_BUCKET)
    facts = HostFacts(hostname=origin, distro_name="leafian")
    await connection.put(HOSTS_BUCKET, origin, msgspec.json.encode(facts))
    await connection.close()


async def refused_ids(connection: bus.Bus) -> list[str]:
    """The ids of the dead letters at the hub, each as often as it is there."""
    letters = await dead_letters(connection)
    return sorted(letter["headers"]["Nats-Msg-Id"] for letter in letters)


async def test_sites_go_on_while_the_hub_is_away(
    cluster: Cluster, receiver: Receiver, tmp_path: Path
) -> None:
    """Two sites and the hub itself have the same names for everything, and nothing crosses."""
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
        await write_facts(sites[0].url, KNOWN)
        async with origins_a, origins_b, direct:
            await eventually(lambda: len(receiver.stored) > HOSTS_OF_A_SITE * 6, 60)
            await asyncio.to_thread(cluster.kill)
            before = len(receiver.stored)
            await asyncio.sleep(OUTAGE_SECONDS)
            # The sites have taken the events meanwhile: their collectors may stop and be gone.
            await origins_a.stop()
            await asyncio.to_thread(cluster.start)
            back = time.monotonic()
            await origins_b.stop()
            await direct.stop()
            told = origins_a.told | origins_b.told | direct.told
            # Some may be refused only now.
            await eventually(lambda: receiver.stored.keys() >= told.keys() - refused, 120)
            print(
                f"away {OUTAGE_SECONDS:.0f} s, {len(told) - before} events behind, "
                f"all shipped {time.monotonic() - back:.1f} s after the hub was back"
            )
            connection = await bus.connect(settings_for(cluster.urls), "test")
            assert await refused_ids(connection) == sorted(refused)
            await connection.close()
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
        for site in sites:
            site.kill()
    assert receiver.stored.keys() == told.keys() - refused
    assert {event for event, times in receiver.stored.items() if times > 1} == set()
    of_known = [one for one in receiver.documents if one["os.host"] == KNOWN]
    assert of_known[-1]["os.distro.name"] == "leafian"
