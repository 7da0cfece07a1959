"""The latency from the engine's time of an event to its arrival at the receiver.

Creates and removes volumes on the real Docker Engine at a steady rate and prints the ages of the
documents at their arrival, by the engine's `timeNano`. Run it with `python benchmarks/latency.py`.
"""

from __future__ import annotations

import asyncio
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import docker

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from broker import NatsServer
from measuring import record
from receiver import TOKEN, Receiver, Reply, Request

from sematext_agent.shared.events import parse_rfc3339

EVENTS_PER_SECOND = 100
SECONDS = 20


class AgeRecorder:
    """A script of the receiver that records the age of each document in milliseconds."""

    def __init__(self, prefix: str) -> None:
        self.prefix = prefix
        self.ages: list[float] = []

    def __call__(self, request: Request) -> Reply:
        document = request.document
        if self.prefix in document["message"]:
            age = time.time_ns() - parse_rfc3339(document["timestamp"])
            self.ages.append(age / 1e6)
        return Reply()


def make_volumes(prefix: str, count: int) -> None:
    """Create and remove volumes, two events each, at EVENTS_PER_SECOND."""
    engine = docker.APIClient()
    started = time.monotonic()
    for number in range(count):
        engine.create_volume(f"{prefix}-{number}")
        engine.remove_volume(f"{prefix}-{number}")
        time.sleep(max(0.0, started + 2 * (number + 1) / EVENTS_PER_SECOND - time.monotonic()))
    engine.close()


async def main() -> None:
    prefix = f"latency-{os.getpid()}"
    recorder = AgeRecorder(prefix)
    with tempfile.TemporaryDirectory() as folder:
        broker = NatsServer(Path(folder))
        broker.start()
        async with Receiver() as receiver:
            receiver.reply = recorder
            environ = os.environ | {
                "NATS_URL": broker.url,
                "INFRA_TOKEN": TOKEN,
                "EVENTS_RECEIVER_URL": receiver.url,
                "LOGGING_LEVEL": "error",
            }
            parts = [
                subprocess.Popen([sys.executable, "-m", f"sematext_agent.{name}"], env=environ)
                for name in ("forwarder", "docker_collector")
            ]
            while not recorder.ages:
                await asyncio.to_thread(make_volumes, prefix, 1)
            recorder.ages.clear()
            count = EVENTS_PER_SECOND * SECONDS // 2
            await asyncio.to_thread(make_volumes, prefix, count)
            async with asyncio.timeout(30):
                while len(recorder.ages) < 2 * count:
                    await asyncio.sleep(0.1)
            for part in parts:
                part.terminate()
                part.wait()
        broker.stop()
    cuts = statistics.quantiles(recorder.ages, n=100)
    print(
        f"{len(recorder.ages)} events at {EVENTS_PER_SECOND}/s, engine to receiver, milliseconds:"
    )
    record("engine to receiver", f"p50 at {EVENTS_PER_SECOND} events/s", cuts[49], "ms")
    record("engine to receiver", f"p99 at {EVENTS_PER_SECOND} events/s", cuts[98], "ms")
    longest = max(recorder.ages)
    print(f"p50 {cuts[49]:.1f}   p90 {cuts[89]:.1f}   p99 {cuts[98]:.1f}   most {longest:.1f}")


if __name__ == "__main__":
    asyncio.run(main())
