"""A real nats-server for tests, raw protocol frames for it, and waits for other processes."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import sysconfig
import time
from collections.abc import Callable
from pathlib import Path

from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.subjects import EVENTS_STREAM

NATS_SERVER = Path(sysconfig.get_path("scripts"), "nats-server")


def free_port() -> int:
    """Return a TCP port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class NatsServer:
    """A real nats-server with JetStream that can be killed and started again on its store."""

    def __init__(self, store: Path, configuration: str = "") -> None:
        self.store = store
        self._configuration = store / "nats.conf"
        self.configure(configuration)
        self.port = free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self._process: subprocess.Popen[bytes] | None = None

    def configure(self, configuration: str) -> None:
        """Write further configuration, which takes effect at the next start or SIGHUP."""
        self._configuration.write_text(configuration)

    @property
    def pid(self) -> int:
        """The id of the running process."""
        assert self._process is not None
        return self._process.pid

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self.store / "server.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    NATS_SERVER,
                    "-a",
                    "127.0.0.1",
                    "-p",
                    str(self.port),
                    "-js",
                    "-sd",
                    self.store,
                    "-c",
                    self._configuration,
                ],
                stderr=log,
            )
        wait_for_port(self.port)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait until one that ends or stops the server has done so."""
        assert self._process is not None
        self._process.send_signal(number)
        if number == signal.SIGSTOP:
            os.waitpid(self._process.pid, os.WUNTRACED)
        if number in (signal.SIGKILL, signal.SIGTERM):
            self._process.wait()

    def save(self) -> Path:
        """Stops the server in order, and returns a copy of its store, as a backup has it."""
        self.signal(signal.SIGTERM)
        return Path(shutil.copytree(self.store / "jetstream", self.store / "backup"))

    def put_back(self, backup: Path) -> None:
        """Stops the server, and puts its store back to the copy."""
        self.stop()
        shutil.rmtree(self.store / "jetstream")
        shutil.copytree(backup, self.store / "jetstream")

    def stop(self) -> None:
        if self._process is not None and self._process.poll() is None:
            self.signal(signal.SIGKILL)


def wait_for_port(port: int, seconds: float = 10) -> None:
    """Wait until a process listens on `port` of this machine."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def raw_publish(server: NatsServer, *frames: bytes) -> None:
    """Send protocol frames unchanged, which a client library would not."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=5) as wire:
        wire.recv(65536)
        wire.sendall(b'CONNECT {"headers":true}\r\n' + b"".join(frames) + b"PING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer += wire.recv(65536)
        assert b"-ERR" not in answer, answer


def frame(subject: bytes, payload: bytes, header: bytes = b"") -> bytes:
    if not header:
        return b"PUB %s %d\r\n%s\r\n" % (subject, len(payload), payload)
    sizes = (len(header), len(header) + len(payload))
    return b"HPUB %s %d %d\r\n%s%s\r\n" % (subject, *sizes, header, payload)


async def wait_for_streams(connection: Bus) -> None:
    """Wait until the forwarder has made its last stream, that of events."""
    async with asyncio.timeout(60):
        while True:
            try:
                await connection.request_api(f"STREAM.INFO.{EVENTS_STREAM}")
                return
            except BusError:
                await asyncio.sleep(0.05)


async def wait_until(condition: Callable[[], bool], seconds: float = 10) -> None:
    """Wait until `condition` holds.

    Raises:
        TimeoutError: it did not hold within `seconds`.
    """
    async with asyncio.timeout(seconds):
        while not condition():
            await asyncio.sleep(0.01)
