"""Delivery end to end: a real engine, a real broker, real processes, killed under load.

The oracle: every event that JetStream acknowledged is an obligation. After the faults the receiver
has stored every obligation and nothing else, and its duplicates are within a bound.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import AsyncIterator
from pathlib import Path

import docker
import pytest
import requests
from broker import NatsServer, wait_until
from private_engine import PrivateEngine, missing
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import bus
from sematext_agent.shared.events import parse_rfc3339
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER

SOCKET = Path("/var/run/docker.sock")
pytestmark = [
    pytest.mark.skipif(not SOCKET.exists(), reason="no Docker Engine on this machine"),
    # The SDK leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVENTS_PER_SECOND = 200


class Agent:
    """The Docker collector, the forwarder and the broker as processes that a test can kill."""

    def __init__(self, broker: NatsServer, receiver: Receiver, engine: str, logs: Path) -> None:
        self.broker = broker
        self.logs = logs
        self.environ = os.environ | {
            "NATS_URL": broker.url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": receiver.url,
            "DOCKER_TRANSPORT": engine,
            "HOSTNAME_ALIAS": "e2e",
        }
        self.processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *names: str) -> None:
        for name in names:
            with (self.logs / f"{name}.log").open("ab") as log:
                self.processes[name] = subprocess.Popen(
                    [sys.executable, "-m", f"sematext_agent.{name}"],
                    env=self.environ,
                    stdout=log,
                    stderr=log,
                )

    def signal(self, number: signal.Signals, *names: str) -> None:
        for name in names:
            self.processes[name].send_signal(number)

    def wait(self, *names: str) -> list[int]:
        return [self.processes[name].wait(timeout=20) for name in names]

    def stop(self) -> None:
        for process in self.processes.values():
            process.kill()
            process.wait()


class Load(threading.Thread):
    """A steady rate of volumes that are created and removed, two events each, until `finish`.

    A volume that the engine refuses while it is away does not count.
    """

    def __init__(self, prefix: str, engine: str) -> None:
        super().__init__(daemon=True)
        self.prefix = prefix
        self.volumes: dict[str, tuple[int, int]] = {}
        """By name: the times just before its creation and after its removal, ns since the epoch."""
        self._engine = docker.APIClient(base_url=engine)
        self._stopping = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        for number in itertools.count():
            if self._stopping.is_set():
                return
            name = f"{self.prefix}-{number}"
            before = time.time_ns()
            with contextlib.suppress(requests.RequestException, docker.errors.APIError):
                self._engine.create_volume(name)
                self._engine.remove_volume(name)
                self.volumes[name] = before, time.time_ns()
            ahead = started + 2 * number / EVENTS_PER_SECOND - time.monotonic()
            self._stopping.wait(max(0.0, ahead))

    async def wait_for_volumes(self, more: int) -> None:
        """Wait until `more` further volumes were created and removed."""
        before = len(self.volumes)
        await wait_until(lambda: len(self.volumes) >= before + more, seconds=30)

    def finish(self) -> None:
        self._stopping.set()
        self.join()
        self._engine.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        yield listening


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """Address of the engine of this machine, or of the private `engine` that the test asks for."""
    if "engine" in request.fixturenames:
        return str(request.getfixturevalue("engine").address)
    return f"unix://{SOCKET}"


@pytest.fixture
async def agent(
    nats_server: NatsServer, receiver: Receiver, address: str, tmp_path: Path
) -> AsyncIterator[Agent]:
    running = Agent(nats_server, receiver, address, tmp_path)
    running.start("forwarder", "docker_collector")
    yield running
    running.stop()


@pytest.fixture
async def load(agent: Agent, receiver: Receiver, address: str) -> AsyncIterator[Load]:
    """Running load, once the first event of a volume has arrived at the receiver."""
    name = f"e2e-{os.getpid()}-{time.time_ns()}"
    engine = docker.APIClient(base_url=address)
    async with asyncio.timeout(20):
        # The collector publishes what happens from its first start on: try until it does.
        while not any(name in document["message"] for document in receiver.documents):
            await asyncio.to_thread(engine.create_volume, f"{name}-first")
            await asyncio.to_thread(engine.remove_volume, f"{name}-first")
            await asyncio.sleep(0.1)
    engine.close()
    running = Load(name, address)
    running.start()
    yield running
    running.finish()


async def read_obligations(broker: NatsServer) -> set[str]:
    """Return the ids of all events in the stream, each of which JetStream has acknowledged."""
    connection = await bus.connect(ServiceSettings(nats_url=(broker.url,)), "oracle")
    state = (await connection.manager.stream_info("EVENTS")).state
    ids = set()
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await connection.manager.get_msg("EVENTS", sequence)
        ids.add(message.headers["Nats-Msg-Id"])
    await connection.close()
    assert state.first_seq == 1, "the oracle needs the whole history"
    return ids


async def count_unacknowledged(broker: NatsServer) -> int:
    """Return the number of events that JetStream would hand out again."""
    connection = await bus.connect(ServiceSettings(nats_url=(broker.url,)), "oracle")
    consumer = await connection.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    await connection.close()
    return int(consumer["num_ack_pending"])


def find_missing_volumes(receiver: Receiver, load: Load) -> set[str]:
    """Return the volumes of which an event neither was delivered nor lies in a delivered gap."""
    delivered = {
        (document["docker.actor.id"], document["container.status"])
        for document in receiver.documents
        if document.get("container.object") == "volume"
    }
    gaps = [
        (parse_rfc3339(document["gap.since"]), parse_rfc3339(document["gap.until"]))
        for document in receiver.documents
        if "gap.since" in document
    ]
    return {
        name
        for name, (created, removed) in load.volumes.items()
        if not {(name, "create"), (name, "destroy")} <= delivered
        and not any(since <= removed and created <= until for since, until in gaps)
    }


async def check_delivery(
    agent: Agent, receiver: Receiver, load: Load, duplicates_max: int = 0
) -> None:
    load.finish()
    assert len(load.volumes) >= 100
    # The engine remembers 256 events, so a process that starts again may find some forgotten: the
    # collector then publishes a gap.
    await wait_until(lambda: not find_missing_volumes(receiver, load), seconds=60)
    obligations = await read_obligations(agent.broker)
    await wait_until(lambda: obligations <= set(receiver.stored), seconds=30)
    # Other users of the engine cause events meanwhile, so the stream is read after the receiver.
    stored = set(receiver.stored)
    assert stored <= await read_obligations(agent.broker), "an event without an obligation"
    assert sum(receiver.stored.values()) - len(receiver.stored) <= duplicates_max


async def test_sigkill_of_the_collector_loses_and_duplicates_nothing(
    agent: Agent, receiver: Receiver, load: Load
) -> None:
    for _ in range(2):
        await load.wait_for_volumes(50)
        agent.signal(signal.SIGKILL, "docker_collector")
        agent.wait("docker_collector")
        agent.start("docker_collector")
    await load.wait_for_volumes(50)
    await check_delivery(agent, receiver, load)


async def test_sigkill_of_the_forwarder_duplicates_at_most_the_unacknowledged_events(
    agent: Agent, receiver: Receiver, load: Load
) -> None:
    duplicates_max = 0
    for _ in range(2):
        await load.wait_for_volumes(50)
        agent.signal(signal.SIGSTOP, "forwarder")
        duplicates_max += await count_unacknowledged(agent.broker)
        agent.signal(signal.SIGKILL, "forwarder")
        agent.wait("forwarder")
        agent.start("forwarder")
    await load.wait_for_volumes(50)
    # A document that was posted and not yet acknowledged is delivered a second time.
    await check_delivery(agent, receiver, load, duplicates_max)


async def test_sigkill_of_the_broker_loses_and_duplicates_nothing(
    agent: Agent, receiver: Receiver, load: Load
) -> None:
    for _ in range(2):
        await load.wait_for_volumes(50)
        agent.broker.signal(signal.SIGKILL)
        agent.broker.start()
    await load.wait_for_volumes(50)
    await check_delivery(agent, receiver, load)


async def test_a_stop_and_start_of_all_processes_loses_and_duplicates_nothing(
    agent: Agent, receiver: Receiver, load: Load
) -> None:
    await load.wait_for_volumes(50)
    agent.signal(signal.SIGTERM, "docker_collector", "forwarder")
    agent.broker.signal(signal.SIGTERM)
    assert await asyncio.to_thread(agent.wait, "docker_collector", "forwarder") == [0, 0]
    agent.broker.start()
    agent.start("forwarder", "docker_collector")
    await load.wait_for_volumes(50)
    await check_delivery(agent, receiver, load)


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_a_restart_of_the_engine_is_covered_by_a_gap(
    agent: Agent, receiver: Receiver, load: Load, engine: PrivateEngine, number: signal.Signals
) -> None:
    await load.wait_for_volumes(50)
    await asyncio.to_thread(engine.stop, number)
    await asyncio.to_thread(engine.start)
    await load.wait_for_volumes(50)
    await check_delivery(agent, receiver, load)
    assert any(d.get("gap.reason") == "engine_restarted" for d in receiver.documents)


@pytest.mark.parametrize(
    "replies",
    [
        [Reply(500)] * 6,
        [Reply(429, headers={"Retry-After": "1"})] * 3,
        [Reply(403)] * 3,
        [Reply(how="cut", stores=False)] * 6,
        [Reply(how="garbage", stores=False)] * 6,
    ],
    ids=["500", "429", "403", "cut", "garbage"],
)
async def test_a_faulty_receiver_gets_every_event_once(
    agent: Agent, receiver: Receiver, load: Load, replies: list[Reply]
) -> None:
    await load.wait_for_volumes(50)
    receiver.replies.extend(replies)
    await wait_until(lambda: not receiver.replies, seconds=60)
    await load.wait_for_volumes(50)
    await check_delivery(agent, receiver, load)
