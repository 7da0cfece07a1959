"""A stranger holds 1,200 connections to the health port of a forwarder with 256 descriptors."""

from __future__ import annotations

import asyncio
import os
import re
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from broker import NatsServer, free_port, wait_for_streams
from connection_flood import (
    CONNECTIONS,
    SilentConnections,
    get_status,
    until_status,
)
from forwarding import Oracle, Publisher
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import bus

DESCRIPTORS = 256
EVENTS = 200
BYTES_MORE_MAX = 60_000 * 1024
"""Of these FastAPI and its server take 40 MB, at the first request."""


class LimitedForwarder:
    """A forwarder that may open few files, and its log."""

    def __init__(self, nats_url: str, receiver_url: str, log: Path) -> None:
        self.port = free_port()
        self._log = log
        environ = {
            "NATS_URL": nats_url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": receiver_url,
            "API_SERVER_PORT": str(self.port),
        }
        with log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "sematext_agent.forwarder"],
                env=os.environ | environ,
                stdout=output,
                stderr=output,
            )
        resource.prlimit(self.process.pid, resource.RLIMIT_NOFILE, (DESCRIPTORS, DESCRIPTORS))

    @property
    def log_lines(self) -> list[str]:
        return self._log.read_text().splitlines()

    @property
    def resident_bytes(self) -> int:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        match = re.search(r"VmRSS:\s+(\d+) kB", status)
        assert match is not None
        return int(match[1]) * 1024

    def imports_fastapi(self) -> bool:
        """Return whether the server of the pages is loaded: its parser is a mapped library."""
        return "pydantic_core" in Path(f"/proc/{self.process.pid}/maps").read_text()


@pytest.fixture
def forwarder(
    nats_server: NatsServer, receiver: Receiver, tmp_path: Path
) -> Iterator[LimitedForwarder]:
    running = LimitedForwarder(nats_server.url, receiver.url, tmp_path / "forwarder.log")
    yield running
    running.process.kill()
    running.process.wait()


async def test_silent_connections_stop_neither_delivery_nor_health(
    forwarder: LimitedForwarder,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
) -> None:
    """Before the server of the pages is loaded, which they do not cause, and after it."""
    await wait_for_streams(connection)
    receiver.reply = Reply(seconds=0.02)
    resident_bytes = forwarder.resident_bytes
    for count in (CONNECTIONS, 2 * DESCRIPTORS):
        is_loaded = forwarder.imports_fastapi()
        assert is_loaded == (count != CONNECTIONS)
        with await asyncio.to_thread(SilentConnections, forwarder.port, count):
            await publisher.publish(EVENTS)
            await verify()
            assert forwarder.imports_fastapi() == is_loaded
            assert await asyncio.to_thread(get_status, forwarder.port) == 200
        assert await asyncio.to_thread(until_status, forwarder.port, 200) < 2
    assert forwarder.resident_bytes < resident_bytes + BYTES_MORE_MAX
    assert len(forwarder.log_lines) < 100
    assert "more than 16 connections" in "".join(forwarder.log_lines)
