"""The drain of a backlog after an outage: events a second, memory, latency of new events.

    python benchmarks/backlog.py [EVENTS]

A real nats-server holds EVENTS (100,000) Docker events; a million take some minutes. While the real
forwarder process drains them, 100 new ones a second are published. Of each the time until the
stream has it is taken, and until the receiver has it.
"""

from __future__ import annotations

import asyncio
import importlib.util
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import time
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

sys.argv[1:] = sys.argv[1:] or ["100000"]
_beside = importlib.util.spec_from_file_location(
    "benchmark_of_the_forwarder", Path(__file__).with_name("forwarder.py")
)
assert _beside is not None
assert _beside.loader is not None
one_forwarder = importlib.util.module_from_spec(_beside)
_beside.loader.exec_module(one_forwarder)  # which finds tests/ too

from broker import NatsServer, wait_until, free_port, wait_for_streams
from measuring import cpu_seconds, peak_mb
from sematext_agent.shared import bus
from sematext_agent.shared.events import encode
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import subject_of

EVENTS: int = one_forwarder.EVENTS
NEW_EVENTS_A_SECOND = 100
NEW_EVENTS_MAX = 200_000
_MARK = b"new-"


class NewEvents:
    """The latency of each new event to the receiver, noted in the receiver's process."""

    def __init__(self) -> None:
        self._count = multiprocessing.Value("i", 0)
        self._waits = multiprocessing.Array("d", NEW_EVENTS_MAX)

    def look(self, document: bytes) -> None:
        """Note the latency of the event in `document`, if it is a new one."""
        at = document.find(_MARK)
        if at >= 0:
            published = int(document[at + len(_MARK) : at + len(_MARK) + 19])
            self._waits[self._count.value] = (time.time_ns() - published) / 1e9
            self._count.value += 1

    @property
    def count(self) -> int:
        """The number of new events that have arrived."""
        return int(self._count.value)

    @property
    def seconds(self) -> list[float]:
        """The latencies so far, in the order of arrival."""
        return list(self._waits[: self._count.value])


async def publish_new(connection: bus.Bus, milliseconds: list[float]) -> None:
    """Publish new events at a steady rate, for ever; note the latency to the stream of each."""
    while True:
        event = one_forwarder.an_event(EVENTS + len(milliseconds))
        event.body.attributes["name"] = f"{_MARK.decode()}{time.time_ns()}"
        began = time.monotonic()
        await connection.publish(subject_of(event), encode(event), event.id)
        milliseconds.append((time.monotonic() - began) * 1000)
        await asyncio.sleep(1 / NEW_EVENTS_A_SECOND)


async def drain(url: str, count: Synchronized[int], new: NewEvents) -> None:
    """Fill the stream, then let the forwarder drain it."""
    with tempfile.TemporaryDirectory() as store:
        server = NatsServer(Path(store))
        server.start()
        environ = os.environ | {
            "NATS_URL": server.url,
            "INFRA_TOKEN": one_forwarder.TOKEN,
            "EVENTS_RECEIVER_URL": url,
            "LOGGING_LEVEL": "warning",
        }
        command = [sys.executable, "-m", "sematext_agent.forwarder"]
        process = subprocess.Popen(command, env=environ)
        connection = await bus.connect(ServiceSettings(nats_url=(server.url,)), "benchmark")
        await wait_for_streams(connection)
        process.terminate()
        await asyncio.to_thread(process.wait)
        await one_forwarder.fill(connection)

        process = subprocess.Popen(command, env=environ)
        await wait_until(lambda: count.value >= EVENTS / 100, 60)
        before, began, first = cpu_seconds(process.pid), time.monotonic(), count.value
        early, latencies = peak_mb(process.pid), list[float]()
        publishing = asyncio.create_task(publish_new(connection, latencies))
        await wait_until(lambda: count.value - new.count >= EVENTS, 3600)
        seconds, shipped = time.monotonic() - began, count.value - first
        publishing.cancel()
        percentiles = statistics.quantiles(latencies, n=100)
        print(f"{shipped / seconds:26,.0f} events/s")
        print(
            f"{(cpu_seconds(process.pid) - before) / shipped * 1e4:26.2f} CPU s per 10,000 events"
        )
        print(f"{early:26.0f} MB after the first hundredth")
        print(f"{peak_mb(process.pid):26.0f} MB at most")
        print(f"{percentiles[49]:20.1f} {percentiles[98]:5.1f} ms p50, p99 until a new one is safe")
        show_waits(new.seconds, seconds)
        process.terminate()
        await asyncio.to_thread(process.wait)
        await connection.close()
        server.stop()


def show_waits(waits: list[float], seconds: float) -> None:
    """Print the latency of new events to the receiver, and how many of them arrived."""
    if len(waits) < 2:
        print("                         0 new ones were shipped before the backlog")
        return
    percentiles = statistics.quantiles(waits, n=100)
    shown = " ".join(f"{percentiles[at - 1]:5.2f}" for at in (50, 90, 99))
    print(f"{shown:>26} s p50, p90, p99 until a new one is shipped")
    print(f"{len(waits):26,d} new ones shipped in the {seconds:.0f} s that the backlog took")


def main() -> None:
    context = multiprocessing.get_context("fork")
    count, port, new = context.Value("i", 0), free_port(), NewEvents()
    receiver = context.Process(
        target=one_forwarder.receive, args=(port, count, new.look), daemon=True
    )
    receiver.start()
    print(f"{EVENTS:,} events of backlog", flush=True)
    asyncio.run(drain(f"http://127.0.0.1:{port}", count, new))
    receiver.terminate()


if __name__ == "__main__":
    main()
