"""The Docker collector at full stream: from a replayed engine to JetStream's acknowledgement.

    python benchmarks/docker_collector.py [--events 200000] [--rate 12000]

A fake engine on a Unix socket replays recorded messages, each with a time of its own, at a fixed
rate; the real collector runs as a process of its own before a real nats-server with a stream on
disk. Reported are the events a second from the first message sent to the last one stored, the
collector's CPU seconds for 10,000 events, and its largest resident memory. Goals: at least 10,000
events a second, at most 60 MB.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import re
import socket
import subprocess
import sys
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# In place of this folder, in which this file stands before the package of the same name.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

from measuring import cpu_seconds, record

from sematext_agent.shared import bus
from sematext_agent.shared.bus import StreamConfig
from sematext_agent.shared.settings import ServiceSettings

CAPTURE = Path(__file__).parent.parent / "tests/docker_collector/fixtures/engine-20.10.jsonl"
NATS_SERVER = Path(sysconfig.get_path("scripts"), "nats-server")
PIECE_SECONDS = 0.005


class ReplayEngine(threading.Thread):
    """An engine that answers the collector, and replays messages at a rate after `began` is set."""

    def __init__(self, path: Path, events: int, rate: int) -> None:
        super().__init__(daemon=True)
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(path))
        self._listener.listen()
        self._events = events
        self._rate = rate
        self.is_followed = threading.Event()
        self.began = threading.Event()
        self.lag_seconds_max = 0.0
        """The most that the replay fell behind its rate: a reader that stalls."""

    def run(self) -> None:
        """Accept connections, each served by a thread of its own."""
        while True:
            connection, _ = self._listener.accept()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        while request := connection.recv(65536):
            path = request.split(b" ")[1]
            if b"/events" in path:
                connection.sendall(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
                if b"until" in path:
                    connection.sendall(b"0\r\n\r\n")
                    continue
                self.is_followed.set()
                self.began.wait()
                self._replay(connection)
                connection.recv(1)
                return
            documents = {b"/version": b'{"Version":"20.10.24","ApiVersion":"1.41"}'}
            name = b"/" + path.rsplit(b"/", 1)[1]
            body = documents.get(name, b"[]" if b"/json?" in path or b"images" in path else b"")
            status = b"200 OK" if body else b"404 Not Found"
            connection.sendall(
                b"HTTP/1.1 %s\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body)
            )

    def _replay(self, connection: socket.socket) -> None:
        recorded = CAPTURE.read_bytes().splitlines()
        begin, written, moment = time.monotonic(), 0, time.time_ns()
        while written < self._events:
            target = min(self._events, int((time.monotonic() - begin) * self._rate))
            pieces = []
            for number in range(written, target):
                line = recorded[number % len(recorded)]
                line = re.sub(rb'"timeNano":\d+', b'"timeNano":%d' % (moment + number), line)
                # One HTTP chunk a message, as the engine sends them.
                pieces.append(b"%x\r\n%s\n\r\n" % (len(line) + 1, line))
            connection.sendall(b"".join(pieces))
            written = target
            lag_seconds = time.monotonic() - begin - written / self._rate
            self.lag_seconds_max = max(self.lag_seconds_max, lag_seconds)
            time.sleep(PIECE_SECONDS)


def memory(process: int) -> dict[str, float]:
    """Return the resident memory of a process in MB: the peak, and now."""
    text = Path(f"/proc/{process}/status").read_text()
    return {
        name: int(re.findall(rf"{name}:\s+(\d+)", text)[0]) / 1024 for name in ("VmHWM", "VmRSS")
    }


@contextlib.contextmanager
def process(*command: str | Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """Run a process that ends with the block."""
    running = subprocess.Popen(command, stdout=subprocess.DEVNULL, **options)
    try:
        yield running
    finally:
        running.terminate()
        running.wait()


async def measure(folder: Path, events: int, rate: int) -> None:
    """Run broker, engine and collector, and replay `events` messages."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    url = f"nats://127.0.0.1:{port}"
    engine = ReplayEngine(folder / "docker.sock", events, rate)
    engine.start()
    environment = os.environ | {
        "NATS_URL": url,
        "DOCKER_TRANSPORT": f"unix://{folder}/docker.sock",
        "CONTAINER_EVENTS_HEALTHCHECKS": "true",
    }
    with process(
        NATS_SERVER,
        "-a",
        "127.0.0.1",
        "-p",
        port,
        "-js",
        "-sd",
        folder / "store",
        stderr=subprocess.DEVNULL,
    ):
        connection = await bus.connect(ServiceSettings(nats_url=(url,)), "benchmark")
        await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
        await connection.manager.create_key_value(bucket="cursors")
        with process(
            sys.executable, "-m", "sematext_agent.docker_collector", cwd=folder, env=environment
        ) as collector:
            await asyncio.to_thread(engine.is_followed.wait, 30)
            await replay(engine, connection, collector.pid, events, rate)
        await connection.close()


async def replay(
    engine: ReplayEngine, connection: bus.Bus, collector: int, events: int, rate: int
) -> None:
    """Replay the messages until all of them are stored, and report what that cost."""
    await asyncio.sleep(0.5)
    idle, before = memory(collector)["VmRSS"], cpu_seconds(collector)
    began = ended = time.monotonic()
    engine.began.set()
    stored, unchanged = 0, 0
    # A repeated health and a repeated removal in a swarm are not stored again.
    while stored < events and unchanged < 20:
        await asyncio.sleep(0.1)
        now = (await connection.manager.stream_info("EVENTS")).state.messages
        unchanged = 0 if now != stored else unchanged + 1
        if now != stored:
            stored, ended = now, time.monotonic()
    cpu, peak = cpu_seconds(collector) - before, memory(collector)["VmHWM"]
    record("docker collector", "engine to stream", stored / (ended - began), "events/s")
    record("docker collector", "CPU for 10,000 events", cpu / stored * 10_000, "s")
    record("docker collector", "peak memory", peak, "MB")
    print(
        f"offered {rate}/s, stored {stored} of {events}, lag at most {engine.lag_seconds_max:.3f} s"
    )
    print(f"{'events/s':>10} {'CPU s/10,000':>13} {'MB idle':>8} {'MB peak':>8}")
    print(f"{stored / (ended - began):10.0f} {cpu / stored * 10_000:13.2f} {idle:8.1f} {peak:8.1f}")


def main() -> None:
    """Read the options and measure once."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rate", type=int, default=12_000, help="messages a second")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(measure(Path(folder), options.events, options.rate))


if __name__ == "__main__":
    main()
