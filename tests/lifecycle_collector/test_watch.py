"""The runs of the agent, reported by the real process to a real nats-server."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import msgspec
import pytest
from broker import NatsServer, wait_until

from sematext_agent.lifecycle_collector.translate import RunRecord
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import AgentLifecycle, Event, decode, parse_rfc3339
from sematext_agent.shared.subjects import CURSORS_BUCKET, HOSTS_BUCKET, bucket_key

ORIGIN = "web.example"


class LifecycleHost:
    """The bus of one host, with all events of its lifecycle collector."""

    def __init__(self, connection: Bus, server: NatsServer) -> None:
        self._bus = connection
        self._environment = os.environ | {
            "NATS_URL": server.url,
            "HOSTNAME_ALIAS": ORIGIN,
            "API_SERVER_PORT": "0",
            "CLOUD_METADATA_ENABLED": "false",
            "HEARTBEAT_INTERVAL": "50ms",
            "DRAIN_SECONDS": "2",
        }
        self.events: list[Event] = []
        self.subjects: list[str] = []

    async def listen(self) -> None:
        async for message in self._bus.create_puller("EVENTS", "test", window=16):
            self.events.append(decode(message.data))
            self.subjects.append(message.subject)
            await self._bus.acknowledge(message)

    async def wait_for_events(self, count: int) -> list[AgentLifecycle]:
        await wait_until(lambda: len(self.events) >= count, seconds=30)
        assert len(self.events) == count, self.events
        return [event.body for event in self.events if isinstance(event.body, AgentLifecycle)]

    async def record(self) -> RunRecord:
        """Return the record of the run, once it is stored, which is after its event."""
        async with asyncio.timeout(30):
            while (
                value := await self._bus.get(CURSORS_BUCKET, bucket_key("lifecycle", ORIGIN))
            ) is None:
                await asyncio.sleep(0.01)
        return msgspec.json.decode(value, type=RunRecord)

    async def heartbeat(self) -> RunRecord:
        """Return the record with the next heartbeat."""
        before = await self.record()
        while (now := await self.record()).alive == before.alive:
            await asyncio.sleep(0.01)
        return now

    @asynccontextmanager
    async def process(self, **environment: str) -> AsyncIterator[Process]:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sematext_agent.lifecycle_collector",
            env=self._environment | environment,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()


@pytest.fixture
async def agent(connection: Bus, nats_server: NatsServer) -> AsyncIterator[LifecycleHost]:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.add_consumer("EVENTS", durable_name="test", ack_policy="explicit")
    for bucket in (CURSORS_BUCKET, HOSTS_BUCKET):
        await connection.manager.create_key_value(bucket=bucket)
    agent = LifecycleHost(connection, nats_server)
    listening = asyncio.create_task(agent.listen())
    yield agent
    listening.cancel()


async def end(process: Process, number: signal.Signals = signal.SIGTERM) -> int:
    process.send_signal(number)
    return await asyncio.wait_for(process.wait(), 10)


async def test_a_run_is_reported_at_its_start_and_at_its_stop(agent: LifecycleHost) -> None:
    async with agent.process() as process:
        await agent.wait_for_events(1)
        assert await end(process) == 0
    started, stopped = await agent.wait_for_events(2)
    assert (started.state, stopped.state, stopped.clean) == ("started", "stopped", True)
    assert started.run == stopped.run
    assert agent.subjects == [
        "events.lifecycle.web_example.agent.started",
        "events.lifecycle.web_example.agent.stopped",
    ]
    assert agent.events[0].origin == ORIGIN
    assert (await agent.record()).stopped == parse_rfc3339(agent.events[1].time)


async def test_a_start_after_a_clean_stop_reports_only_itself(agent: LifecycleHost) -> None:
    for _ in range(2):
        async with agent.process() as process:
            await agent.wait_for_events(len(agent.events) + 1)
            await end(process)
    bodies = await agent.wait_for_events(4)
    assert [body.state for body in bodies] == ["started", "stopped", "started", "stopped"]
    assert all(body.clean for body in bodies)
    assert bodies[0].run != bodies[2].run


async def test_a_killed_run_is_reported_as_stopped_at_its_last_heartbeat(
    agent: LifecycleHost,
) -> None:
    async with agent.process() as process:
        await agent.wait_for_events(1)
        await agent.heartbeat()
        await end(process, signal.SIGKILL)
    last = await agent.record()
    async with agent.process():
        _, stopped, started = await agent.wait_for_events(3)
    assert (stopped.state, stopped.clean, stopped.run) == ("stopped", False, last.run)
    assert parse_rfc3339(agent.events[1].time) == last.alive
    assert (started.state, started.run != last.run) == ("started", True)


async def test_a_restart_of_the_service_within_one_run_is_no_event(agent: LifecycleHost) -> None:
    async with agent.process(AGENT_RUN="run-1") as process:
        await agent.wait_for_events(1)
        await end(process, signal.SIGKILL)
    async with agent.process(AGENT_RUN="run-1") as process:
        await agent.heartbeat()
        await end(process)
    started, stopped = await agent.wait_for_events(2)
    assert (started.run, stopped.run, stopped.clean) == ("run-1", "run-1", True)


async def test_a_service_that_was_stopped_alone_begins_a_run_with_ids_of_its_own(
    agent: LifecycleHost,
) -> None:
    for _ in range(2):
        async with agent.process(AGENT_RUN="run-1") as process:
            await agent.wait_for_events(len(agent.events) + 1)
            await end(process)
    first, _, second, _ = await agent.wait_for_events(4)
    assert first.run == "run-1"
    assert second.run.startswith("run-1.")
    assert len({event.id for event in agent.events}) == 4


async def test_a_stop_while_the_broker_is_away_is_reported_by_the_next_start(
    agent: LifecycleHost, nats_server: NatsServer
) -> None:
    async with agent.process(DRAIN_SECONDS="200ms") as process:
        await agent.wait_for_events(1)
        last = await agent.heartbeat()
        nats_server.signal(signal.SIGKILL)
        assert await end(process) == 0
    nats_server.start()
    async with agent.process():
        _, stopped, _ = await agent.wait_for_events(3)
    assert (stopped.state, stopped.clean, stopped.run) == ("stopped", False, last.run)


async def test_an_unreadable_record_is_ignored(agent: LifecycleHost, connection: Bus) -> None:
    await connection.put(CURSORS_BUCKET, bucket_key("lifecycle", ORIGIN), b"{")
    async with agent.process():
        (started,) = await agent.wait_for_events(1)
    assert started.state == "started"
