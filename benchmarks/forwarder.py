"""The cost of the forwarder: CPU seconds per 10,000 events, events a second, memory.

    python benchmarks/forwarder.py [EVENTS]

A real nats-server holds EVENTS (15,000) Docker events. The real forwarder process pulls, posts and
acknowledges them, one POST each, at a local receiver that only counts. Beside it, the same bodies
posted by plain loops of the same library, and by the forwarder's transport alone. CPU seconds are
those of the one process, user and system. The goals: 0.8 CPU seconds, 60 MB.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Awaitable, Callable
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

import pycurl  # type: ignore[import-untyped]

# In place of this folder, in which this file stands before the package of the same name.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

from broker import NatsServer, wait_until, free_port, wait_for_streams
from counting_receiver import receive
from measuring import cpu_seconds, peak_mb, record
from sematext_agent.forwarder.documents import encode as encode_document
from sematext_agent.forwarder.documents import build_document
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared import bus
from sematext_agent.shared.events import DockerEvent, Event, encode, event_id, format_rfc3339
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import subject_of

EVENTS = int(sys.argv[1]) if len(sys.argv) > 1 else 15_000
CONNECTIONS = 32
TOKEN = "benchmark-token"


def an_event(number: int) -> Event:
    """Return the die of a container, as an engine reports it, with the labels of compose."""
    return Event(
        id=event_id("benchmark", number),
        time=format_rfc3339(time.time_ns()),
        origin="web-01",
        agent="0",
        body=DockerEvent(
            type="container",
            action="die",
            actor_id=f"{number:064x}",
            attributes={
                "name": f"shop_web_{number}",
                "image": "registry.example.org/shop/web:1.25",
                "exitCode": "137",
                "execDuration": "4821",
            },
            labels={
                "com.docker.compose.project": "shop",
                "com.docker.compose.service": "web",
                "com.docker.compose.container-number": str(number),
            },
        ),
    )


def show(name: str, cpu: float, seconds: float, memory: float) -> None:
    """Print one line of the table."""
    rate = EVENTS / seconds
    print(f"{name:34} {cpu / EVENTS * 1e4:6.2f} {rate:10,.0f} {memory:6.0f}", flush=True)


async def whole_forwarder(url: str, count: Synchronized[int]) -> None:
    """Measure the forwarder's process, from a full stream to an empty one."""
    with tempfile.TemporaryDirectory() as store:
        server = NatsServer(Path(store))
        server.start()
        environment = {"NATS_URL": server.url, "INFRA_TOKEN": TOKEN, "EVENTS_RECEIVER_URL": url}
        process = subprocess.Popen(
            [sys.executable, "-m", "sematext_agent.forwarder"],
            env={**os.environ, **environment, "LOGGING_LEVEL": "warning"},
        )
        connection = await bus.connect(ServiceSettings(nats_url=(server.url,)), "benchmark")
        await wait_for_streams(connection)
        await asyncio.sleep(1)
        process.send_signal(signal.SIGSTOP)
        await fill(connection)
        before, count.value, began = cpu_seconds(process.pid), 0, time.monotonic()
        process.send_signal(signal.SIGCONT)
        await wait_until(lambda: count.value >= EVENTS, 300)
        seconds = time.monotonic() - began
        await asyncio.sleep(0.5)  # the last acknowledgements
        cpu, memory = cpu_seconds(process.pid) - before, peak_mb(process.pid)
        show("forwarder, pull to acknowledgement", cpu, seconds, memory)
        record("forwarder", "pull, post and acknowledge", EVENTS / seconds, "events/s")
        record("forwarder", "CPU for 10,000 events", cpu / EVENTS * 1e4, "s")
        record("forwarder", "peak memory", memory, "MB")
        process.send_signal(signal.SIGTERM)
        await asyncio.to_thread(process.wait)
        await connection.close()
        server.stop()


async def fill(connection: bus.Bus) -> None:
    """Put the events into the stream."""
    waiting: set[asyncio.Task[bus.PublishAck]] = set()
    for number in range(EVENTS):
        event = an_event(number)
        publish = connection.publish(subject_of(event), encode(event), event.id)
        waiting.add(asyncio.create_task(publish))
        if len(waiting) >= 500:
            await asyncio.wait(waiting)
            waiting.clear()
    await asyncio.gather(*waiting)


async def loop_of(post: Callable[[bytes], Awaitable[object]], bodies: list[bytes]) -> None:
    """Post all bodies, `CONNECTIONS` at a time."""
    remaining = iter(bodies)

    async def work() -> None:
        for body in remaining:
            await post(body)

    await asyncio.gather(*(work() for _ in range(CONNECTIONS)))


def a_handle(url: str) -> pycurl.Curl:
    """Return an easy handle that posts and throws the answer away."""
    curl = pycurl.Curl()
    curl.setopt(pycurl.URL, f"{url}/{TOKEN}/event")
    curl.setopt(pycurl.POST, 1)
    curl.setopt(pycurl.HTTPHEADER, ["Content-Type: application/json", "Expect:"])
    curl.setopt(pycurl.WRITEFUNCTION, lambda _: None)
    return curl


async def own_transport(url: str, bodies: list[bytes]) -> None:
    """Post with the forwarder's transport alone."""
    transport = Transport(ForwarderSettings(infra_token=Secret(TOKEN), events_receiver_url=url))
    remaining, done = iter(bodies), asyncio.Event()
    running = CONNECTIONS

    def post_next(_: object = None) -> None:
        nonlocal running
        body = next(remaining, None)
        if body is not None:
            transport.post(body, post_next)
            return
        running -= 1
        if not running:
            done.set()

    for _ in range(CONNECTIONS):
        post_next()
    await done.wait()
    transport.close()


async def library_asyncio(url: str, bodies: list[bytes]) -> None:
    """Post with pycurl's own binding to asyncio."""
    multi = pycurl.AsyncCurlMulti()
    idle = [a_handle(url) for _ in range(CONNECTIONS)]

    async def post(body: bytes) -> None:
        curl = idle.pop()
        curl.setopt(pycurl.POSTFIELDS, body)
        await multi.perform(curl)
        idle.append(curl)

    await loop_of(post, bodies)
    await multi.aclose()


async def library_blocking(url: str, bodies: list[bytes]) -> None:
    """Post with libcurl's multi interface in a plain loop, which can do nothing else meanwhile."""
    multi = pycurl.CurlMulti()
    idle = [a_handle(url) for _ in range(CONNECTIONS)]
    remaining, running = iter(bodies), 0
    while True:
        while idle and (body := next(remaining, None)) is not None:
            curl = idle.pop()
            curl.setopt(pycurl.POSTFIELDS, body)
            multi.add_handle(curl)
            running += 1
        if not running:
            return
        multi.perform()
        remaining_count = 1
        while remaining_count:
            remaining_count, succeeded, _ = multi.info_read()
            for curl in succeeded:
                multi.remove_handle(curl)
                idle.append(curl)
                running -= 1
        multi.select(0.1)


def in_own_process(
    name: str, post_all: Callable[[str, list[bytes]], Awaitable[None]], url: str
) -> None:
    """Measure one of the loops in a fresh process."""

    def measure() -> None:
        bodies = [
            encode_document(build_document(an_event(number), None)) for number in range(EVENTS)
        ]
        before, began = time.process_time(), time.monotonic()

        async def run() -> None:
            await post_all(url, bodies)

        asyncio.run(run())
        cpu, seconds = time.process_time() - before, time.monotonic() - began
        memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        show(name, cpu, seconds, memory)

    process = multiprocessing.get_context("fork").Process(target=measure)
    process.start()
    process.join()


def main() -> None:
    context = multiprocessing.get_context("fork")
    count, port = context.Value("i", 0), free_port()
    receiver = context.Process(target=receive, args=(port, count), daemon=True)
    receiver.start()
    url = f"http://127.0.0.1:{port}"
    time.sleep(0.5)
    print(f"{EVENTS:,} events{'':22} CPU s/10k   events/s     MB")
    asyncio.run(whole_forwarder(url, count))
    in_own_process("the forwarder's transport alone", own_transport, url)
    in_own_process("pycurl, AsyncCurlMulti", library_asyncio, url)
    in_own_process("pycurl, blocking multi loop", library_blocking, url)
    receiver.terminate()


if __name__ == "__main__":
    main()
