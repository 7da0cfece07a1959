"""The filter of docker-compose.yml, HAProxy as it ships, between collector and real engine."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import os
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from functools import partial
from pathlib import Path

import pytest
from broker import NatsServer, free_port, wait_for_port, wait_until
from private_engine import PrivateEngine, missing

from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import DockerEvent, decode
from sematext_agent.shared.subjects import CURSORS_BUCKET, EVENTS_STREAM

pytestmark = [
    pytest.mark.skipif(shutil.which("haproxy") is None, reason="no haproxy on this machine"),
    pytest.mark.skipif(bool(missing()), reason=missing()),
    # The SDK, with which these tests drive the engine, leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

CONFIGURATION = Path(__file__).parents[2] / "deploy/engine-filter/haproxy.cfg"


@contextlib.contextmanager
def running_filter(engine: PrivateEngine) -> Iterator[int]:
    """Run a filter before an engine, and yield its port."""
    port = free_port()
    environment = os.environ | {
        "ENGINE_SOCKET": f"{engine.folder}/docker.sock",
        "ENGINE_FILTER": f"127.0.0.1:{port}",
    }
    command = ["haproxy", "-q", "-db", "-f", str(CONFIGURATION)]
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    wait_for_port(port)
    try:
        yield port
    finally:
        process.kill()
        process.wait()


@pytest.fixture
def port(engine: PrivateEngine) -> Iterator[int]:
    """The port of a filter before this test's own engine."""
    with running_filter(engine) as port:
        yield port


@pytest.fixture
async def docker_bodies(
    connection: Bus, nats_server: NatsServer, port: int, tmp_path: Path
) -> AsyncIterator[list[DockerEvent]]:
    """The events of a collector behind the filter."""
    await connection.manager.add_stream(
        StreamConfig(name=EVENTS_STREAM, subjects=["events.>"], duplicate_window=900)
    )
    await connection.manager.add_consumer(EVENTS_STREAM, durable_name="test", ack_policy="explicit")
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    environment = os.environ | {
        "NATS_URL": nats_server.url,
        "DOCKER_TRANSPORT": f"tcp://127.0.0.1:{port}",
    }
    process = subprocess.Popen(
        [sys.executable, "-m", "sematext_agent.docker_collector"], env=environment
    )
    bodies: list[DockerEvent] = []

    async def listen() -> None:
        async for message in connection.create_puller(EVENTS_STREAM, "test", window=512):
            body = decode(message.data).body
            if isinstance(body, DockerEvent):
                bodies.append(body)
            await connection.acknowledge(message)

    listening = asyncio.create_task(listen())
    async with asyncio.timeout(30):
        while not await connection.keys(CURSORS_BUCKET):
            await asyncio.sleep(0.02)
    yield bodies
    listening.cancel()
    process.kill()
    process.wait()


async def test_events_pass_the_filter_also_after_a_restart_of_the_engine(
    engine: PrivateEngine, docker_bodies: list[DockerEvent]
) -> None:
    for name in ("before", "after"):
        engine.client.containers.run("box:1", ["true"], name=name, network_mode="none")
        await wait_until(partial(has_died, docker_bodies, name), seconds=30)
        if name == "before":
            await asyncio.to_thread(engine.stop)
            await asyncio.to_thread(engine.start)


def has_died(bodies: list[DockerEvent], name: str) -> bool:
    """Return whether the container with this name has ended."""
    return any(body.action == "die" and body.attributes.get("name") == name for body in bodies)


REFUSED = [
    "POST /v1.41/containers/create",
    "POST /v1.41/containers/json",
    "PUT /v1.41/events",
    "DELETE /v1.41/images/box:1/json",
    "HEAD /version",
    "OPTIONS /version",
    "GET /",
    "GET /info",
    "GET /v1.41/info",
    "GET /_ping",
    "GET /v1.41/containers/x/logs",
    "GET /v1.41/volumes",
    "GET /v1.41/containers/x/archive",
    "GET /v1.41/containers/x/json/y",
    "GET /v1.41/secrets",
    "GET /v1.41/images/../containers/x/export",
    "GET //version",
    "GET /v1.41/events/",
    "GET /v1.41/containers/%2e%2e/json",
    "GET /v1.41/images/x/get",
]


def test_requests_that_the_collector_does_not_make_are_refused(
    shared_engine: PrivateEngine,
) -> None:
    with running_filter(shared_engine) as port:
        assert_requests_refused(port)


def assert_requests_refused(port: int) -> None:
    statuses = {}
    for line in REFUSED:
        method, path = line.split()
        statuses[line] = request(port, method, path)
    assert statuses == dict.fromkeys(REFUSED, 403)
    assert request(port, "GET", "/version", body="x") == 403
    upgrade = {"Connection": "Upgrade", "Upgrade": "tcp"}
    assert request(port, "GET", "/version", headers=upgrade) == 403
    assert request(port, "GET", "/version") == 200


def request(
    port: int,
    method: str,
    path: str,
    body: str | None = None,
    headers: dict[str, str] | None = None,
) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    try:
        connection.request(method, path, body, headers or {})
        return connection.getresponse().status
    finally:
        connection.close()
