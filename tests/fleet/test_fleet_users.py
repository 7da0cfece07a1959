"""Users per service at a hub and its sites: the rights of `agentctl users --domain` suffice."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from pathlib import Path

import msgspec
from broker import free_port, wait_until
from fleet_origins import an_event, start_forwarder
from fleet_servers import Server
from receiver import Receiver

from sematext_agent.agentctl.users import password_file
from sematext_agent.shared import bus
from sematext_agent.shared.events import HostFacts, encode
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, HOSTS_BUCKET, subject_of

SITE = "site-a"


def start_server(name: str, folder: Path, leafnodes: str) -> Server:
    """Start a hub or a site as in docs/scaling.md, with users of its own."""
    ports = {"client": free_port(), "http": free_port()}
    server = Server(name, folder, "", **ports)
    command = [
        sys.executable,
        "-m",
        "sematext_agent.agentctl",
        "users",
        str(folder / "users"),
        "--domain",
        SITE,
    ]
    subprocess.run(command, check=True)
    (folder / "server.conf").write_text(f"""
        server_name: {name}
        listen: "127.0.0.1:{ports["client"]}"
        http: "127.0.0.1:{ports["http"]}"
        jetstream {{ domain: {name}, store_dir: {json.dumps(str(folder / "data"))} }}
        include users/nats/accounts.conf
        leafnodes {{ {leafnodes} }}
        """)
    server.start()
    return server


async def log_in(server: Server, user: str) -> bus.Bus:
    password = password_file(server.folder / "users", user).read_text().strip()
    settings = ServiceSettings(
        nats_url=(server.url,), nats_user=user, nats_password=Secret(password)
    )
    return await bus.connect(settings, user)


async def test_a_forwarder_at_the_hub_delivers_the_events_of_a_site(
    receiver: Receiver, tmp_path: Path
) -> None:
    leaf_port = free_port()
    hub = start_server(
        "hub",
        tmp_path / "hub",
        f"""listen: "127.0.0.1:{leaf_port}"
            authorization {{ user: leaf, password: secret, account: AGENT }}""",
    )
    site = start_server(
        SITE,
        tmp_path / SITE,
        f"""reconnect: 1s, remotes: [ {{
            url: "nats-leaf://leaf:secret@127.0.0.1:{leaf_port}", account: AGENT
            deny_exports: ["events.>", "dead.>"]
            deny_imports: ["events.>", "dead.>", "$JS.ACK.EVENTS.forwarder.>",
                           "$JS.ACK.EVENTS.forwarder_overtaking.>"]
        }} ]""",
    )
    password = password_file(hub.folder / "users", "forwarder").read_text().strip()
    user = {"nats_user": "forwarder", "nats_password": password, "api_server_port": 0}
    forwarders = [
        start_forwarder([hub.url], receiver.url, tmp_path / f"of-{domain}", **user, **more)
        for domain, more in (("hub", {}), (SITE, {"nats_domain": SITE}))
    ]
    try:
        docker, lifecycle = await log_in(site, "docker"), await log_in(site, "lifecycle")
        async with asyncio.timeout(60):
            await docker.wait_until_ready(CURSORS_BUCKET)
            await lifecycle.wait_until_ready(HOSTS_BUCKET)
        facts = HostFacts(hostname="web-01")
        await lifecycle.put(HOSTS_BUCKET, "web-01", msgspec.json.encode(facts))
        events = [an_event("web-01", number) for number in range(20)]
        for event in events:
            await docker.publish(subject_of(event), encode(event), event.id)
        await wait_until(lambda: receiver.stored.keys() >= {event.id for event in events}, 60)
        await wait_until(lambda: _everything_is_acknowledged(site), 60)
        tap = await log_in(site, "tap")
        forbidden = f"$JS.API.CONSUMER.MSG.NEXT.EVENTS.forwarder-{SITE}"
        await tap.send(forbidden, b"", tap.new_inbox())
        for connection in (docker, lifecycle, tap):
            await connection.close()
    finally:
        for forwarder in forwarders:
            forwarder.terminate()
            await asyncio.to_thread(forwarder.wait)
        for server in (site, hub):
            server.kill()
    assert set(receiver.stored.values()) == {1}
    assert (_violations(site), _violations(hub)) == ([forbidden], [])


def _violations(server: Server) -> list[str]:
    """Return the subjects that the server has refused to a user."""
    return re.findall(r'Violation.*Subject "(.*?)"', (server.folder / "log").read_text())


def _everything_is_acknowledged(site: Server) -> bool:
    (account,) = [
        account
        for account in site.read_page("jsz?consumers=1")["account_details"]
        if account["name"] == "AGENT"
    ]
    (events,) = [stream for stream in account["stream_detail"] if stream["name"] == "EVENTS"]
    return [
        consumer["num_ack_pending"] + consumer["num_pending"]
        for consumer in events["consumer_detail"]
        if consumer["name"] == f"forwarder-{SITE}"
    ] == [0]
