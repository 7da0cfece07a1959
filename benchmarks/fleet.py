"""The cost of a fleet for its brokers: per event, per host, and of forwarders side by side.

    python benchmarks/fleet.py [HOSTS [EVENTS_OF_EACH]]

A hub of three real nats-servers, replicas 3, with the configuration of deploy/fleet; HOSTS (1,000)
simulated hosts with a connection, a cursor and facts of their own, each of which publishes
EVENTS_OF_EACH (10) Docker events as fast as the hub accepts them; then one, two and three
forwarders that empty the stream. And the real collectors of this machine, for the data of a host.
The receiver only counts. CPU seconds are user and system; those of the servers are of one server.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path
from typing import Any

# In place of this folder, whose modules would hide packages of the same name.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

from broker import NatsServer, wait_until, free_port, wait_for_streams
from counting_receiver import receive
from fleet_origins import an_event, settings_for, start_forwarder
from fleet_servers import Cluster
from measuring import cpu_seconds
from sematext_agent.shared import bus
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import encode
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    EVENTS_STREAM,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    bucket_key,
    subject_of,
)

HOSTS_COUNT = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
EVENTS_EACH = int(sys.argv[2]) if len(sys.argv) > 2 else 10
EVENTS = HOSTS_COUNT * EVENTS_EACH
_REAL_SECONDS = 30


def memory_mb(process: int) -> float:
    """Return the resident memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def show(name: str, value: str) -> None:
    """Print a line of the table."""
    print(f"{name:58} {value:>16}", flush=True)


async def stream(connection: Bus, name: str) -> dict[str, Any]:
    """Return the state of a stream, from its leader."""
    while True:
        try:
            state: dict[str, Any] = (await connection.request_api(f"STREAM.INFO.{name}"))["state"]
            return state
        except bus.BusError:
            await asyncio.sleep(0.2)


async def publish(connection: Bus, origin: str) -> None:
    """Publish the events of a host, and store a cursor after each."""
    for number in range(EVENTS_EACH):
        event = an_event(origin, number)
        payload = encode(event)
        await connection.publish(subject_of(event), payload, event.id)
        await connection.put(CURSORS_BUCKET, bucket_key("docker", origin), b"%d" % number)


class Servers:
    """CPU and memory of the cluster's servers."""

    def __init__(self, cluster: Cluster) -> None:
        self._processes = [server.process.pid for server in cluster.servers if server.process]

    def cpu(self) -> float:
        return sum(map(cpu_seconds, self._processes)) / len(self._processes)

    def memory(self) -> float:
        return sum(map(memory_mb, self._processes)) / len(self._processes)


async def hosts(cluster: Cluster) -> None:
    """Measure the publishing side."""
    servers = Servers(cluster)
    admin = await bus.connect(settings_for(cluster.urls), "benchmark")
    await wait_for_streams(admin)
    idle = servers.memory()
    connections = []
    for number in range(HOSTS_COUNT):
        urls = cluster.urls[number % 3 :] + cluster.urls[: number % 3]
        connections.append(await bus.connect(settings_for(urls), "host"))
    await asyncio.sleep(1)
    show("memory of a server, idle", f"{idle:.0f} MB")
    growth = (servers.memory() - idle) * 3000 / HOSTS_COUNT
    show("… for 1,000 connections, on all three together", f"{growth:.0f} MB")
    before, began = servers.cpu(), time.monotonic()
    await asyncio.sleep(15)
    idling = (servers.cpu() - before) * 3 / (time.monotonic() - began) / HOSTS_COUNT * 1000
    show("CPU of all three for 1,000 quiet connections", f"{idling:.3f} cores")
    before, began = servers.cpu(), time.monotonic()
    origins = [f"host-{number:04}" for number in range(HOSTS_COUNT)]
    await asyncio.gather(*(publish(*pair) for pair in zip(connections, origins, strict=True)))
    seconds = time.monotonic() - began
    show("events/s published, a cursor kept after each", f"{EVENTS / seconds:,.0f}")
    show(
        "CPU of each server for 10,000 of these", f"{(servers.cpu() - before) / EVENTS * 1e4:.1f} s"
    )
    events = await stream(admin, EVENTS_STREAM)
    show("bytes of an event on each server's disk", f"{events['bytes'] / events['messages']:.0f}")
    cursors = await stream(admin, f"KV_{CURSORS_BUCKET}")
    show("bytes of a cursor such as these", f"{cursors['bytes'] / cursors['messages']:.0f}")
    for connection in (*connections, admin):
        await connection.close()


async def forwarders(cluster: Cluster, url: str, count: Synchronized[int], many: int) -> None:
    """Measure `many` forwarders from a full stream to an empty one."""
    servers = Servers(cluster)
    admin = await bus.connect(settings_for(cluster.urls), "benchmark")
    # A new consumer delivers the whole stream again.
    await admin.request_api(f"CONSUMER.DELETE.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    count.value = 0
    before = servers.cpu()
    with tempfile.NamedTemporaryFile() as log:
        processes = [
            start_forwarder(
                cluster.urls, url, Path(log.name), stream_replicas=3, logging_level="error"
            )
            for _ in range(many)
        ]
        await wait_until(lambda: count.value > 0, 60)
        first, posted = time.monotonic(), count.value
        await wait_until(lambda: count.value >= EVENTS, 600)
        rate = (EVENTS - posted) / (time.monotonic() - first)
        cpu = sum(cpu_seconds(process.pid) for process in processes)
        memory = max(memory_mb(process.pid) for process in processes)
        for process in processes:
            process.terminate()
            await asyncio.to_thread(process.wait)
    server = (servers.cpu() - before) / EVENTS * 1e4
    show(
        f"{many} forwarders: events/s",
        f"{rate:,.0f}",
    )
    show("… CPU of all of them, start included, for 10,000", f"{cpu / EVENTS * 1e4:.2f} s")
    show(
        "… CPU of each server for 10,000; memory of a forwarder", f"{server:.2f} s {memory:.0f} MB"
    )
    await admin.close()


async def real_host(folder: Path) -> None:
    """Run the collectors of this machine for long enough to scan everything once."""
    server = NatsServer(folder)
    server.start()
    environ = {**os.environ, "NATS_URL": server.url, "LOGGING_LEVEL": "error"}
    names = ("forwarder", "host_collector", "docker_collector", "lifecycle_collector")
    parts = [
        subprocess.Popen(
            [sys.executable, "-m", f"sematext_agent.{name}"], env=environ, stdout=subprocess.DEVNULL
        )
        for name in names
    ]
    connection = await bus.connect(settings_for([server.url]), "benchmark")
    await wait_for_streams(connection)
    await asyncio.sleep(_REAL_SECONDS)
    for bucket in (CURSORS_BUCKET, HOSTS_BUCKET):
        state = await stream(connection, f"KV_{bucket}")
        show(
            f"this machine in the bucket {bucket}: keys, bytes",
            f"{state['messages']} {state['bytes']:,}",
        )
    for part in reversed(parts):
        part.terminate()
        await asyncio.to_thread(part.wait)
    await connection.close()
    server.stop()


async def main() -> None:
    port, count = free_port(), multiprocessing.Value("i", 0)
    receiver = multiprocessing.Process(target=receive, args=(port, count), daemon=True)
    receiver.start()
    url = f"http://127.0.0.1:{port}"
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "one").mkdir()
        await real_host(Path(folder) / "one")
        cluster = Cluster(Path(folder))
        cluster.start()
        with tempfile.NamedTemporaryFile() as log:
            # It makes the streams, and ends before there is anything in them.
            maker = start_forwarder(cluster.urls, url, Path(log.name), stream_replicas=3)
            admin = await bus.connect(settings_for(cluster.urls), "benchmark")
            await wait_for_streams(admin)
            await admin.close()
            maker.terminate()
            await asyncio.to_thread(maker.wait)
        await hosts(cluster)
        for many in (1, 2, 3):
            await forwarders(cluster, url, count, many)
        cluster.kill()
    receiver.terminate()


if __name__ == "__main__":
    asyncio.run(main())
