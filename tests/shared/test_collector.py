"""The window of a collector, and its cursors: that of the safe prefix, stored also at the stop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from itertools import takewhile

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import generate_latest
from virtual_time import ManualClock

from sematext_agent.shared import collector
from sematext_agent.shared.bus import BucketEntry, Bus, PublishAck, PublishTimeout
from sematext_agent.shared.collector import Observation, PublishWindow, collect
from sematext_agent.shared.events import EVENT_BYTES_MAX, DockerEvent, Event
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime, Work
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET


class ScriptedBus(Bus):
    """A bus that acknowledges publishes in the order of the test, which no real one takes."""

    def __init__(self) -> None:
        self.publishes: dict[str, asyncio.Future[PublishAck]] = {}
        self.attempts = 0

    async def begin_publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> asyncio.Future[PublishAck]:
        self.attempts += 1
        self.publishes[message_id] = asyncio.get_running_loop().create_future()
        return self.publishes[message_id]

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> PublishAck:
        return await (await self.begin_publish(subject, payload, message_id))


def observation(number: int) -> Observation:
    body = DockerEvent(type="t", action="a", actor_id="i")
    event = Event(id=str(number), time="", origin="o", agent="1", body=body)
    return Observation(event, b"%d" % number)


async def _run(work: Work[ServiceSettings], runtime: Runtime[ServiceSettings]) -> None:
    await work(runtime)


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


@given(order=st.permutations(range(6)), answered=st.integers(0, 6))
def test_the_cursor_is_that_of_the_longest_acknowledged_prefix(
    order: list[int], answered: int
) -> None:
    async def check() -> None:
        bus = ScriptedBus()
        async with asyncio.TaskGroup() as tasks:
            window = PublishWindow(bus, Health("test", "host"), tasks)
            for number in range(6):
                await window.put(observation(number))
            await settle()
            safe = set(order[:answered])
            for number in order[:answered]:
                bus.publishes[str(number)].set_result(PublishAck(1))
            await settle()
            prefix = list(takewhile(safe.__contains__, range(6)))
            assert window.cursors == ({"": b"%d" % prefix[-1]} if prefix else {})
            assert len(window) == 6 - len(prefix)
            for number in order[answered:]:
                bus.publishes[str(number)].set_result(PublishAck(1))
            await window.drain()
        assert window.cursors == {"": b"5"}

    asyncio.run(check())


async def test_a_full_window_takes_nothing_more_until_an_event_is_safe(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(collector, "WINDOW_EVENTS_MAX", 2)
    bus = ScriptedBus()
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, Health("test", "host"), tasks)
        await window.put(observation(0))
        await window.put(observation(1))
        third = asyncio.create_task(window.put(observation(2)))
        await settle()
        assert not third.done()
        bus.publishes["0"].set_result(PublishAck(1))
        await third
        await settle()
        for number in ("1", "2"):
            bus.publishes[number].set_result(PublishAck(1))


async def test_an_unacknowledged_publish_is_repeated_and_holds_the_cursor() -> None:
    bus = ScriptedBus()
    health = Health("test", "host")
    health.set_condition("bus", True, "connected")
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, health, tasks, uniform=lambda low, high: 0.0)
        await window.put(observation(0))
        await settle()
        bus.publishes["0"].set_exception(PublishTimeout("lost"))
        await settle()
        assert (bus.attempts, window.cursors) == (2, {})
        assert not health.report().ready
        bus.publishes["0"].set_result(PublishAck(1))
        await window.drain()
    assert window.cursors == {"": b"0"}


async def test_a_cursor_that_moves_alone_waits_for_the_events_before_it() -> None:
    bus = ScriptedBus()
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, Health("test", "host"), tasks)
        await window.put(observation(0))
        await window.put(Observation(None, b"alone", cursor_name="other"))
        await settle()
        assert window.cursors == {}
        bus.publishes["0"].set_result(PublishAck(1))
        await window.drain()
    assert window.cursors == {"": b"0", "other": b"alone"}


async def test_an_event_too_large_for_the_stream_is_counted_and_reported() -> None:
    bus, health = ScriptedBus(), Health("test", "host")
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, health, tasks)
        body = DockerEvent(type="t", action="a", actor_id="i" * EVENT_BYTES_MAX)
        event = Event(id="large", time="", origin="o", agent="1", body=body)
        await window.put(Observation(event, b"1"))
        (answer,) = bus.publishes.values()
        answer.set_result(PublishAck(1))
        await window.drain()
    assert "events.docker.o.t.a was" in health.report().last_error
    assert b'events_too_large_total{service="test"} 1.0' in generate_latest(health.registry)


class ForgetfulBus(Bus):
    """A bus that never answers the first attempt to store a cursor."""

    def __init__(self) -> None:
        self.stored: dict[str, bytes] = {}
        self.attempted = asyncio.Event()

    async def wait_until_ready(self, *buckets: str) -> None:
        pass

    async def get_entry(self, bucket: str, key: str, domain: str = "") -> BucketEntry:
        return BucketEntry(None, 0)

    async def replace(self, bucket: str, key: str, value: bytes, revision: int) -> int:
        if not self.attempted.is_set():
            self.attempted.set()
            await asyncio.Event().wait()
        self.stored[key] = value
        return revision + 1


async def test_a_cursor_is_stored_although_the_stop_interrupts_its_first_write() -> None:
    bus, stopping = ForgetfulBus(), asyncio.Event()

    async def watch(
        runtime: Runtime[ServiceSettings], _: bytes | None
    ) -> AsyncIterator[Observation]:
        yield Observation(None, b"last")
        await runtime.stopping.wait()

    runtime = Runtime(ServiceSettings(), Health("test", "host"), bus, stopping)
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        tasks.create_task(_run(collect(watch), runtime))
        await bus.attempted.wait()
        stopping.set()
    assert bus.stored == {"test.host": b"last"}


async def test_the_origin_of_a_service_names_its_cursors_and_its_health(connection: Bus) -> None:
    """Replicas that watch one source from several hosts share its cursor."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    stopping, health = asyncio.Event(), Health("test", "host-1")

    async def watch(
        runtime: Runtime[ServiceSettings], _: bytes | None
    ) -> AsyncIterator[Observation]:
        yield Observation(None, b"1")
        stopping.set()

    runtime = Runtime(ServiceSettings(), health, connection, stopping)
    assert runtime.origin == "host-1"
    runtime.origin = "cluster"
    await collect(watch)(runtime)
    assert await connection.get(CURSORS_BUCKET, "test.cluster") == b"1"
    assert health.report().origin == "cluster"


async def test_a_collector_that_is_stopped_while_it_starts_publishes_what_it_has(
    connection: Bus,
) -> None:
    """The stop of the agent, for one."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    stopping = asyncio.Event()
    stopping.set()

    async def watch(
        runtime: Runtime[ServiceSettings], _: bytes | None
    ) -> AsyncIterator[Observation]:
        yield Observation(None, b"last")

    runtime = Runtime(ServiceSettings(), Health("test", "here"), connection, stopping)
    await collect(watch)(runtime)
    assert await connection.get(CURSORS_BUCKET, "test.here") == b"last"


async def test_the_age_of_the_window_is_that_of_its_oldest_event() -> None:
    bus, clock = ScriptedBus(), ManualClock()
    async with asyncio.TaskGroup() as tasks:
        window = PublishWindow(bus, Health("test", "host"), tasks, clock)
        assert window.age() == 0
        await window.put(observation(0))
        clock.advance(5)
        await window.put(observation(1))
        clock.advance(1)
        assert window.age() == 6
        for number in ("0", "1"):
            bus.publishes[number].set_result(PublishAck(1))
        await window.drain()
    assert window.age() == 0
