"""Processes killed under load: nothing is lost, and only what was in flight is delivered twice.

The forwarder runs as its own process here, with 200 events a second going into the stream.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from broker import NatsServer, free_port, wait_for_streams
from forwarding import Oracle, Publisher
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import bus

EVENTS_A_SECOND = 200
IN_FLIGHT = 128


class ForwarderProcess:
    """`python -m sematext_agent.forwarder`, killed and started again."""

    def __init__(self, nats_url: str, receiver_url: str, log: Path) -> None:
        self.port = free_port()
        self._environ = {
            **os.environ,
            "NATS_URL": nats_url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": receiver_url,
            "API_SERVER_PORT": str(self.port),
            "LOGGING_LEVEL": "debug",
            "DRAIN_SECONDS": "2",
        }
        self.log = log
        self._process: subprocess.Popen[bytes]

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "sematext_agent.forwarder"],
                env=self._environ,
                stdout=log,
                stderr=log,
            )

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    async def end(self, number: signal.Signals) -> int:
        """End it with a signal and return its exit status."""
        self.send(number)
        return await asyncio.to_thread(self._process.wait, 20)

    async def until_ready(self, ready: bool = True) -> None:
        """Wait for the readiness `ready`, in a thread, so that the load goes on."""
        async with asyncio.timeout(20):
            while await asyncio.to_thread(self._is_ready) != ready:
                await asyncio.sleep(0.05)

    def _is_ready(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()

    def stop(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()


@pytest.fixture
async def forwarder(
    nats_server: NatsServer, receiver: Receiver, tmp_path: Path
) -> AsyncIterator[ForwarderProcess]:
    process = ForwarderProcess(nats_server.url, receiver.url, tmp_path / "forwarder.log")
    process.start()
    yield process
    process.stop()
    assert TOKEN not in process.log.read_text()
    assert "Traceback" not in process.log.read_text()


@contextlib.asynccontextmanager
async def load(publisher: Publisher) -> AsyncIterator[None]:
    """Publish 200 events a second while the block runs; then everything is acknowledged."""
    publishing = asyncio.Event()
    publishing.set()

    async def publish() -> None:
        async with asyncio.TaskGroup() as tasks:
            while publishing.is_set():
                tasks.create_task(publisher.publish(EVENTS_A_SECOND // 20))
                await asyncio.sleep(1 / 20)

    task = asyncio.create_task(publish())
    try:
        yield
    finally:
        publishing.clear()
        await task


async def test_a_killed_forwarder_duplicates_only_what_it_was_sending(
    forwarder: ForwarderProcess,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
) -> None:
    """Events in flight when it was killed are delivered twice: nobody received the answers."""
    receiver.reply = Reply(seconds=0.02)
    await forwarder.until_ready()
    # What the killed ones had in flight is redelivered after the ack deadline.
    consumer = (await connection.request_api("CONSUMER.INFO.EVENTS.forwarder"))["config"]
    await connection.request_api(
        "CONSUMER.CREATE.EVENTS.forwarder",
        {"stream_name": "EVENTS", "config": consumer | {"ack_wait": 2_000_000_000}},
    )
    async with load(publisher):
        for _ in range(3):
            await asyncio.sleep(0.5)
            await forwarder.end(signal.SIGKILL)
            forwarder.start()
            await forwarder.until_ready()
    await verify(duplicates_max=3 * IN_FLIGHT)
    assert len(receiver.stored) > 300


async def test_a_stopped_forwarder_loses_and_duplicates_nothing(
    forwarder: ForwarderProcess, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    """An orderly stop delivers nothing twice, and exits with 0."""
    await wait_for_streams(connection)
    async with load(publisher):
        for _ in range(2):
            await forwarder.until_ready()
            await asyncio.sleep(0.5)
            assert await forwarder.end(signal.SIGTERM) == 0
            forwarder.start()
        await asyncio.sleep(0.5)
    await verify(seconds=20)


async def test_a_killed_broker_loses_and_duplicates_nothing(
    forwarder: ForwarderProcess,
    publisher: Publisher,
    verify: Oracle,
    nats_server: NatsServer,
    connection: bus.Bus,
) -> None:
    """It redelivers what it had not stored; the memory of ids keeps that from being sent."""
    await forwarder.until_ready()
    async with load(publisher):
        for _ in range(3):
            await asyncio.sleep(0.7)
            nats_server.signal(signal.SIGKILL)
            await asyncio.sleep(0.3)
            nats_server.start()
        await asyncio.sleep(0.5)
    await verify(seconds=60)


async def test_a_freeze_shorter_than_the_lease_loses_and_duplicates_nothing(
    forwarder: ForwarderProcess, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await forwarder.until_ready()
    async with load(publisher):
        await asyncio.sleep(0.3)
        forwarder.send(signal.SIGSTOP)
        await asyncio.sleep(3)
        forwarder.send(signal.SIGCONT)
    await verify(seconds=20)


async def test_readiness_follows_the_receiver(
    forwarder: ForwarderProcess,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
) -> None:
    await wait_for_streams(connection)
    await forwarder.until_ready()
    receiver.reply = Reply(401)
    await publisher.publish(3)
    await forwarder.until_ready(False)
    receiver.reply = Reply()
    await verify()
    await forwarder.until_ready()


async def test_wrong_settings_end_it_with_one_line(tmp_path: Path) -> None:
    process = ForwarderProcess("nats://127.0.0.1:1", "http://example.org", tmp_path / "log")
    process.start()
    assert await asyncio.to_thread(process._process.wait, 20) == 2
    (line,) = process.log.read_text().splitlines()
    assert line == (
        "forwarder: EVENTS_RECEIVER_URL=http://example.org: plain http would show the token to the "
        "network; use https, or set EVENTS_RECEIVER_ALLOW_HTTP=true"
    )
