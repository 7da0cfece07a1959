"""One Docker line from the engine to the POST, followed by its calls: docs/architecture.md."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from types import FrameType
from typing import Any

import pytest
from broker import NatsServer, wait_until
from fake_engine import FakeEngine
from receiver import TOKEN, Receiver
from walk_table import Step, read_walk

from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.watch import watch
from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.collector import collect
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime, Work
from sematext_agent.shared.settings import Secret, ServiceSettings

pytestmark = [
    # The reader's socket may be left to the garbage collector, see docker_collector/watch_run.py.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
_NAMESPACE = "/sematext_agent/"


@contextmanager
def traced_calls() -> Iterator[list[Step]]:
    """Yield the list of all functions that are called from here on, in every thread.

    A caller comes before what it calls, also where it was called before.
    """
    calls: list[Step] = []

    def step(frame: FrameType) -> Step:
        code = frame.f_code
        return code.co_filename.rpartition(_NAMESPACE)[2], code.co_qualname

    def record(frame: FrameType, event: str, _: object) -> None:
        if event == "call" and _NAMESPACE in frame.f_code.co_filename:
            calls.extend(step(f) for f in (frame.f_back, frame) if f is not None)

    threading.setprofile(record)
    sys.setprofile(record)
    try:
        yield calls
    finally:
        sys.setprofile(None)
        threading.setprofile(None)


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.listen(tmp_path / "docker.sock")
    yield fake
    fake.close()


async def start(name: str, work: Work[Any], settings: ServiceSettings) -> AsyncExitStack:
    """Run `work` as a service in this process; closing the stack stops it."""
    connection = await bus.connect(settings, name)
    runtime = Runtime(settings, Health(name, "web-01"), connection, asyncio.Event())
    stack = AsyncExitStack()
    stack.push_async_callback(connection.close)
    running = asyncio.ensure_future(work(runtime))
    stack.push_async_callback(asyncio.wait, [running])
    stack.callback(runtime.stopping.set)
    return stack


async def test_a_docker_line_passes_the_files_of_its_walk_in_their_order(
    nats_server: NatsServer, engine: FakeEngine
) -> None:
    walk = read_walk("docker")
    nats_url = (nats_server.url,)
    async with Receiver() as receiver:
        forwarder = ForwarderSettings(
            nats_url=nats_url, infra_token=Secret(TOKEN), events_receiver_url=receiver.url
        )
        collector = DockerSettings(nats_url=nats_url, docker_transport=engine.address)
        # The reader's thread is traced from its start, and so from before its first line.
        with traced_calls() as calls:
            async with (
                await start("forwarder", forward, forwarder),
                await start("docker", collect(watch), collector),
            ):
                await wait_until(lambda: bool(engine.streams), 20)
                calls.clear()
                engine.emit("start")
                await wait_until(lambda: walk[-1] in calls and bool(receiver.documents), 20)
    assert [step for step in walk if step not in calls] == []
    assert sorted(walk, key=calls.index) == walk
    files = [file for file, _ in walk]
    assert len(files) == len(set(files))
