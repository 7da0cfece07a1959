"""A forwarder within the test's own process, and numbered events for it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Awaitable
from typing import Any, Protocol

from broker import wait_until
from prometheus_client import generate_latest
from receiver import Receiver

from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.clock import SYSTEM_CLOCK
from sematext_agent.shared.events import AgentLifecycle, Event, encode, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import subject_of


class Forwarder:
    """`forward` in a task of the test, with a health and a connection of its own."""

    def __init__(self, runtime: Runtime[ForwarderSettings]) -> None:
        self.health = runtime.health
        self.stopping = runtime.stopping
        self._bus = runtime.bus
        self.task: asyncio.Task[None] = asyncio.create_task(forward(runtime))

    @property
    def receiver_condition(self) -> tuple[bool, str]:
        """The state and the detail of the health condition `receiver`."""
        condition = self.health.report().conditions["receiver"]
        return condition.ok, condition.detail

    def figure(self, name: str) -> float:
        """Return a figure of the health report."""
        return self.health.report().figures[name]

    def metrics(self) -> str:
        """Return the metrics as Prometheus reads them."""
        return generate_latest(self.health.registry).decode()

    async def kill(self) -> None:
        """End it where it is: nothing is given back."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self._bus.close()

    async def stop(self) -> None:
        """End it in order."""
        self.stopping.set()
        await self.task
        await self._bus.close()


class Start(Protocol):
    """`await start(**settings)` runs a forwarder, which is stopped after the test."""

    def __call__(self, **settings: Any) -> Awaitable[Forwarder]: ...


def an_event(number: int, **changes: Any) -> Event:
    """Return one event of many, with an id of its own."""
    fields = {
        "id": event_id("test", number),
        "time": format_rfc3339(SYSTEM_CLOCK.wall_ns()),
        "origin": "web-01",
        "agent": "1",
        "body": AgentLifecycle(state="started", run=str(number)),
        **changes,
    }
    return Event(**fields)


def an_encoded_event(**changes: Any) -> bytes:
    """Return the payload of an event with the id `x`, valid but for the `changes`."""
    event = {
        "id": "x",
        "time": "2026-01-01T00:00:00.000000000Z",
        "origin": "o",
        "agent": "1",
        "body": {"event": "lifecycle", "state": "started", "run": "r"},
    }
    return json.dumps(event | changes).encode()


class Publisher:
    """A publisher of numbered events that keeps the ids that JetStream has acknowledged."""

    def __init__(self, connection: bus.Bus) -> None:
        self._bus = connection
        self._next = 0
        self.acknowledged: set[str] = set()

    async def publish(self, events: int = 1) -> list[str]:
        """Publish `events` more, each until it is acknowledged, and return their ids."""
        numbers = range(self._next, self._next + events)
        self._next += events
        return await asyncio.gather(*(self._publish(an_event(number)) for number in numbers))

    async def _publish(self, event: Event) -> str:
        while True:
            try:
                await self._bus.publish(subject_of(event), encode(event), event.id)
            except bus.BusError:
                await asyncio.sleep(0.05)
                continue
            self.acknowledged.add(event.id)
            return event.id


class Oracle:
    """The outcome that must have come of everything that was published."""

    def __init__(self, publisher: Publisher, receiver: Receiver) -> None:
        self._publisher = publisher
        self._receiver = receiver

    async def __call__(self, duplicates_max: int = 0, seconds: float = 20) -> None:
        """Wait until every published event is stored; assert that no other is, and few twice."""
        published, stored = self._publisher.acknowledged, self._receiver.stored
        await wait_until(lambda: published <= set(stored), seconds)
        assert set(stored) == published
        assert sum(stored.values()) - len(stored) <= duplicates_max


DeadLetter = dict[str, Any]


async def dead_letters(connection: bus.Bus) -> list[DeadLetter]:
    """Return what is in the stream DEAD: subject, data and headers of each."""
    letters: list[DeadLetter] = []
    state = (await connection.request_api("STREAM.INFO.DEAD"))["state"]
    if not state["messages"]:
        return letters
    consumer = await connection.request_api(
        "CONSUMER.CREATE.DEAD",
        {"stream_name": "DEAD", "config": {"ack_policy": "none", "mem_storage": True}},
    )
    puller = connection.create_puller("DEAD", consumer["name"], state["messages"])
    async for message in puller:
        letters.append(
            {"subject": message.subject, "data": message.data, "headers": message.headers}
        )
        if not message.pending_count:
            break
    await connection.request_api(f"CONSUMER.DELETE.DEAD.{consumer['name']}")
    return letters


async def until_acknowledged(connection: bus.Bus, seconds: float = 10) -> None:
    """Wait until everything in the stream was delivered and acknowledged."""
    async with asyncio.timeout(seconds):
        while not await _is_acknowledged(connection):
            await asyncio.sleep(0.02)


async def _is_acknowledged(connection: bus.Bus) -> bool:
    last = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["last_seq"]
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    waiting = info["num_pending"] + info["num_ack_pending"]
    return bool(info["delivered"]["stream_seq"] == last and not waiting)
