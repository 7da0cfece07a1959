"""The two promises, end to end: real engine, real broker, real processes, killed under load.

The oracle: what JetStream acknowledged is an obligation. After the faults every obligation has been
stored by the receiver, nothing was invented, and what was stored twice is counted.
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
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
from broker import NatsServer, eventually
from private_engine import PrivateEngine, missing
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import bus
from sematext_agent.shared.events import parse_rfc3339
from sematext_agent.shared.settings import ServiceSettings

SOCKET = Path("/var/run/docker.sock")
pytestmark = [
    pytest.mark.skipif(not SOCKET.exists(), reason="no Docker Engine on this machine"),
    # The SDK leaves sockets to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]

EVENTS_PER_SECOND = 200


class Agent:
    """The collectors, the forwarder and the broker as processes, one by one to be killed."""

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
    """Makes and removes volumes: two events each, at a steady rate, until told to stop.

    What an engine that is away does not take is not made.
    """

    def __init__(self, prefix: str, engine: str) -> None:
        super().__init__(daemon=True)
        self.prefix = prefix
        self.made: dict[str, tuple[int, int]] = {}
        """By name: when it was made and when it was gone, in nanoseconds since the epoch."""
        self._engine = docker.APIClient(base_url=engine)
        self._enough = threading.Event()

    def run(self) -> None:
        started = time.monotonic()
        for number in itertools.count():
            if self._enough.is_set():
                return
            name = f"{self.prefix}-{number}"
            before = time.time_ns()
            with contextlib.suppress(requests.RequestException, docker.errors.APIError):
                self._engine.create_volume(name)
                self._engine.remove_volume(name)
                self.made[name] = before, time.time_ns()
            ahead = started + 2 * number / EVENTS_PER_SECOND - time.monotonic()
            self._enough.wait(max(0.0, ahead))

    async def makes(self, more: int) -> None:
        """Waits until so many more were made."""
        before = len(self.made)
        await eventually(lambda: len(self.made) >= before + more, seconds=30)

    def finish(self) -> None:
        self._enough.set()
        self.join()
        self._engine.close()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        yield listening


@pytest.fixture
def address(request: pytest.FixtureRequest) -> str:
    """The engine's: this machine's own, or of the `engine` that a test may stop."""
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
    """Volumes made and removed at the engine, once a first one has come through."""
    name = f"e2e-{os.getpid()}-{time.time_ns()}"
    engine = docker.APIClient(base_url=address)
    async with asyncio.timeout(20):
        # The collector tells what happens from its first start on: until it does, try again.
        while not any(name in document["message"] for document in receiver.documents):
            await asyncio.to_thread(engine.create_volume, f"{name}-first")
            await asyncio.to_thread(engine.remove_volume, f"{name}-first")
            await asyncio.sleep(0.1)
    engine.close()
    running = Load(name, address)
    running.start()
    yield running
    running.finish()
    gc.collect()  # here, and not in the next test


async def obligations(broker: NatsServer) -> set[str]:
    """The ids of all that JetStream holds, and so has acknowledged."""
    connection = await bus.connect(ServiceSettings(nats_url=(broker.url,)), "oracle")
    state = (await connection.manager.stream_info("EVENTS")).state
    ids = set()
    for sequence in range(state.first_seq, state.last_seq + 1):
        message = await connection.manager.get_msg("EVENTS", sequence)
        ids.add(message.headers["Nats-Msg-Id"])
    await connection.close()
    assert state.first_seq == 1, "the oracle needs the whole history"
    return ids


def untold(receiver: Receiver, load: Load) -> set[str]:
    """The volumes whose creation or end was neither told nor lies in a gap that was told."""
    told = {
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
        for name, (made, gone) in load.made.items()
        if not {(name, "create"), (name, "destroy")} <= told
        and not any(since <= gone and made <= until for since, until in gaps)
    }


async def check(agent: Agent, receiver: Receiver, load: Load, duplicates_max: int = 0) -> None:
    load.finish()
    assert len(load.made) >= 100
    # The load is faster than the engine's memory of 256 events is long: what happens while a
    # process starts again may be forgotten by the engine, and is then told as a gap.
    await eventually(lambda: not untold(receiver, load), seconds=60)
    owed = await obligations(agent.broker)
    async with asyncio.timeout(30):
        while not owed <= set(receiver.stored):
            await asyncio.sleep(0.05)
    # Others may use the engine meanwhile: what is stored now is owed by whoever looks afterwards.
    stored = set(receiver.stored)
    assert stored <= await obligations(agent.broker), "invented"
    assert sum(receiver.stored.values()) - len(receiver.stored) <= duplicates_max


async def test_the_collector_killed(agent: Agent, receiver: Receiver, load: Load) -> None:
    for _ in range(2):
        await load.makes(50)
        agent.signal(signal.SIGKILL, "docker_collector")
        agent.wait("docker_collector")
        agent.start("docker_collector")
    await load.makes(50)
    await check(agent, receiver, load)


async def test_the_forwarder_killed(agent: Agent, receiver: Receiver, load: Load) -> None:
    for _ in range(2):
        await load.makes(50)
        agent.signal(signal.SIGKILL, "forwarder")
        agent.wait("forwarder")
        agent.start("forwarder")
    await load.makes(50)
    # A document whose answer was on its way when the forwarder was killed is sent once more.
    await check(agent, receiver, load, duplicates_max=receiver.in_flight_most * 2)


async def test_the_broker_killed(agent: Agent, receiver: Receiver, load: Load) -> None:
    for _ in range(2):
        await load.makes(50)
        agent.broker.signal(signal.SIGKILL)
        agent.broker.start()
    await load.makes(50)
    await check(agent, receiver, load)


async def test_everything_stopped_at_once_and_started_again(
    agent: Agent, receiver: Receiver, load: Load
) -> None:
    await load.makes(50)
    agent.signal(signal.SIGTERM, "docker_collector", "forwarder")
    agent.broker.signal(signal.SIGTERM)
    assert await asyncio.to_thread(agent.wait, "docker_collector", "forwarder") == [0, 0]
    agent.broker.start()
    agent.start("forwarder", "docker_collector")
    await load.makes(50)
    await check(agent, receiver, load)


@pytest.mark.skipif(bool(missing()), reason=missing())
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
async def test_the_engine_restarted(
    agent: Agent, receiver: Receiver, load: Load, engine: PrivateEngine, number: signal.Signals
) -> None:
    await load.makes(50)
    await asyncio.to_thread(engine.stop, number)
    await asyncio.to_thread(engine.start)
    await load.makes(50)
    await check(agent, receiver, load)
    # What the engine's own memory lost with it was said.
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
async def test_a_receiver_that_misbehaves(
    agent: Agent, receiver: Receiver, load: Load, replies: list[Reply]
) -> None:
    await load.makes(50)
    receiver.replies.extend(replies)
    await eventually(lambda: not receiver.replies, seconds=60)
    await load.makes(50)
    await check(agent, receiver, load)
