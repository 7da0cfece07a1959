"""The Kubernetes collector: from the wire to the acknowledgement, its memory, its idle cost.

    python benchmarks/kubernetes_collector.py [--events 200000] [--safe 10000]
                                              [--listed 1000,100000,1000000]

A fake API server, in a process of its own, serves events of 1.2 KB as the kubelet writes them; the
real collector runs as a process of its own before a real nats-server with a stream on disk.

- *watch*: events a second from the first frame asked for to the last event stored, and the
  collector's CPU seconds for 10,000 events. Beside it, in the same run, the *ceiling*: messages of
  the same size, encoded beforehand and published over a raw socket with the same window. Both
  twice: in a stream that is written through before it acknowledges, as ours is on one server
  (`sync_interval: always`), where the disk decides; and in one that is not, as on a cluster of
  servers, where the collector does. And the SDK's own `Watch.stream`, which only counts what it
  gets.
- *list*: the collector's largest resident memory after a list of so many events. Goal: at most
  80 MB, and the same for 1,000 and 1,000,000.
- *idle*: CPU and requests of a collector that watches a silent cluster.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import multiprocessing
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

# After the packages, of which one has the same name as this file.
sys.path.append(sys.path.pop(0))
sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

import ceiling
import msgspec
from broker import NatsServer, wait_for_port
from kubernetes_api import Exchange, encode_frame, kubelet_event, kubeconfig, read_request
from measuring import cpu_seconds, peak_mb, record

from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.kubernetes_collector.translate import Cluster, RawEvent, translate
from sematext_agent.shared import bus
from sematext_agent.shared.collector import WINDOW_EVENTS_MAX
from sematext_agent.shared.events import encode
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, subject_of

REVISION = 1_000_000
FIELDS: dict[str, object] = {
    "f:count": {},
    "f:firstTimestamp": {},
    "f:involvedObject": {},
    "f:lastTimestamp": {},
}


def numbered(number: int) -> dict[str, object]:
    event = kubelet_event(f"web-7d4b9c6f5d-{number:07d}.17f3")
    metadata = event["metadata"] | {
        "uid": f"00000000-0000-4000-8000-{number:012d}",
        "resourceVersion": str(REVISION + number),
        "creationTimestamp": event["lastTimestamp"],
        "managedFields": [
            {"manager": "kubelet", "operation": "Update", "apiVersion": "v1", "fieldsV1": FIELDS}
        ],
    }
    return event | {"metadata": metadata}


class Template:
    """An event encoded once, into which only the number is put: the server must cost little."""

    def __init__(self, encoded: bytes) -> None:
        self._encoded = (
            encoded.replace(b"0000017.17f3", b"%07d.17f3")
            .replace(b"-000000000017", b"-%012d")
            .replace(b'"%d"' % (REVISION + 17), b'"%d"')
        )
        order = [
            (self._encoded.index(b"%07d"), 0),
            (self._encoded.index(b"%012d"), 0),
            (self._encoded.index(b'"%d"'), REVISION),
        ]
        self._offsets = [offset for _, offset in sorted(order)]

    def __mod__(self, number: int) -> bytes:
        return self._encoded % tuple(number + offset for offset in self._offsets)


class Server:
    """A server that lists `listed` events, and sends `watched` of them to the first watch."""

    def __init__(self, listed: int, watched: int) -> None:
        self._listed, self._watched = listed, watched
        item = json.dumps(numbered(17)).encode()
        self._item, self._line = Template(item), Template(encode_frame("ADDED", numbered(17)))

    async def serve(self, port: int) -> None:
        server = await asyncio.start_server(self._connected, "127.0.0.1", port)
        await server.serve_forever()

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            while (exchange := await read_request(reader, writer)) is not None:
                if exchange.path.endswith("kube-system"):
                    await exchange.json(200, {"metadata": {"uid": "benchmark"}})
                elif "watch" in exchange.params:
                    await self._watch(exchange)
                else:
                    await self._list(exchange)

    async def _list(self, exchange: Exchange) -> None:
        start, limit = int(exchange.params.get("continue", "0")), int(exchange.params["limit"])
        stop = min(start + limit, self._listed)
        token = str(stop) if stop < self._listed else ""
        meta = json.dumps({"resourceVersion": str(REVISION), "continue": token}).encode()
        items = b",".join(self._item % number for number in range(start, stop))
        body = b'{"metadata":%s,"items":[%s]}' % (meta, items)
        await exchange.head(chunked=False, Content_Length=str(len(body)))
        await exchange.raw(body)

    async def _watch(self, exchange: Exchange) -> None:
        await exchange.head()
        for start in range(0, self._watched, 50):
            numbers = range(start, min(start + 50, self._watched))
            await exchange.chunk(b"".join(self._line % (number + 1) for number in numbers))
        self._watched = 0
        await asyncio.sleep(3600)


@contextlib.contextmanager
def server(listed: int = 0, watched: int = 0) -> Iterator[int]:
    from broker import free_port

    port = free_port()
    process = multiprocessing.Process(
        target=lambda: asyncio.run(Server(listed, watched).serve(port)), daemon=True
    )
    process.start()
    wait_for_port(port)
    try:
        yield port
    finally:
        process.kill()
        process.join()


@contextlib.contextmanager
def collector(port: int, nats: NatsServer, folder: Path) -> Iterator[int]:
    config = kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{port}")
    environ = {"KUBECONFIG": str(config), "NATS_URL": nats.url, "KUBERNETES_EVENTS_LOOKBACK": "24h"}
    process = subprocess.Popen(
        [sys.executable, "-m", "sematext_agent.kubernetes_collector"],
        env=os.environ | environ,
        stderr=subprocess.DEVNULL,
    )
    try:
        yield process.pid
    finally:
        process.kill()
        process.wait()


@contextlib.asynccontextmanager
async def broker(folder: Path, written_through: bool = False):  # type: ignore[no-untyped-def]
    """Start a server with the streams as the forwarder creates them."""
    store = folder / f"nats-{time.monotonic_ns()}"
    store.mkdir()
    nats = NatsServer(store, "jetstream { sync_interval: always }" if written_through else "")
    nats.start()
    connection = await bus.connect(ServiceSettings(nats_url=(nats.url,)), "benchmark")
    for stream in stream_configs(ForwarderSettings(stream_bytes_max=4 * 1024**3)):
        await connection.request_api(f"STREAM.CREATE.{stream['name']}", stream)
    try:
        yield nats, connection
    finally:
        await connection.close()
        nats.stop()


async def stored(connection: bus.Bus) -> int:
    return int((await connection.manager.stream_info("EVENTS")).state.messages)


async def wait_until_stored(connection: bus.Bus, count: int) -> float:
    while await stored(connection) < count:
        await asyncio.sleep(0.02)
    return time.monotonic()


async def watch(events: int, folder: Path, written_through: bool) -> None:
    raw = msgspec.convert(numbered(17), RawEvent)
    event = translate(raw, Cluster("benchmark", "benchmark"), time.time_ns())
    async with broker(folder, written_through) as (nats, _):
        highest = await asyncio.to_thread(
            ceiling.publish,
            nats.url,
            nats.pid,
            subject_of(event),
            encode(event),
            events,
            WINDOW_EVENTS_MAX,
        )
    with server(watched=events) as port:
        async with broker(folder, written_through) as (nats, connection):
            with collector(port, nats, folder) as pid:
                began = await wait_until_stored(connection, 1)
                cpu = cpu_seconds(pid)
                rate = events / (await wait_until_stored(connection, events) - began)
                cpu = (cpu_seconds(pid) - cpu) / events * 10_000
                how = "written through" if written_through else "not written through"
                share = rate / highest.events_per_second
                record("kubernetes collector", f"watch to stream, {how}", rate, "events/s")
                record("kubernetes collector", f"CPU for 10,000 events, {how}", cpu, "s")
                print(how)
                print(
                    f"  ceiling:   {highest.events_per_second:7.0f} events/s, NATS "
                    f"{highest.nats_cpu_seconds:.2f} CPU s for 10,000"
                )
                print(
                    f"  collector: {rate:7.0f} events/s, {share:.0%} of it, "
                    f"{cpu:.2f} CPU s for 10,000, peak {peak_mb(pid):.0f} MB"
                )


SDK = """
import os, sys, time
from kubernetes import client, config, watch
config.load_kube_config(sys.argv[1], persist_config=False)
api, count, began = client.CoreV1Api(), 0, None
for event in watch.Watch().stream(api.list_event_for_all_namespaces, resource_version="1"):
    began = began or (time.monotonic(), time.process_time())
    count += 1
    if count == int(sys.argv[2]):
        break
print(count / (time.monotonic() - began[0]), (time.process_time() - began[1]) / count * 10_000,
      int(open("/proc/self/status").read().split("VmHWM:")[1].split()[0]) / 1024)
"""


def sdk(events: int, folder: Path) -> None:
    with server(watched=events) as port:
        config = kubeconfig(folder / "kubeconfig", f"http://127.0.0.1:{port}")
        done = subprocess.run(
            [sys.executable, "-c", SDK, str(config), str(events)],
            capture_output=True,
            text=True,
            check=True,
        )
    rate, cpu, peak = map(float, done.stdout.split())
    print(
        f"  SDK:       {rate:7.0f} events/s only received, {cpu:.2f} CPU s for 10,000, "
        f"peak {peak:.0f} MB"
    )


async def listed(events: int, folder: Path) -> None:
    with server(listed=events) as port:
        async with broker(folder) as (nats, connection):
            with collector(port, nats, folder) as pid:
                began = time.monotonic()
                seconds = await wait_until_stored(connection, events) - began
                peak = peak_mb(pid)
                record("kubernetes collector", f"peak memory, {events:,} listed", peak, "MB")
                print(f"list:  {events:9,} events in {seconds:5.1f} s, peak {peak:.0f} MB")


async def idle(folder: Path) -> None:
    with server() as port:
        async with broker(folder) as (nats, connection):
            with collector(port, nats, folder) as pid:
                # A stored cursor shows that it has listed and watches.
                while not await connection.keys(CURSORS_BUCKET):
                    await asyncio.sleep(0.1)
                await asyncio.sleep(2)
                cpu = cpu_seconds(pid)
                await asyncio.sleep(20)
                share = (cpu_seconds(pid) - cpu) / 20 * 100
                record("kubernetes collector", "idle CPU", share, "% of a core")
                print(f"idle:  {share:.2f} % of a core, peak {peak_mb(pid):.0f} MB")


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--safe", type=int, default=10_000, help="the events written through")
    parser.add_argument("--listed", default="1000,100000,1000000")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        await watch(arguments.safe, folder, written_through=True)
        await watch(arguments.events, folder, written_through=False)
        await asyncio.to_thread(sdk, arguments.events, folder)
        for count in arguments.listed.split(","):
            await listed(int(count), folder)
        await idle(folder)


if __name__ == "__main__":
    multiprocessing.set_start_method("fork")
    asyncio.run(main())
