"""A forwarder within the test's own process, and numbered events for it."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable
from typing import Any, Protocol

from broker import eventually
from prometheus_client import generate_latest
from receiver import Receiver

from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.events import AgentLifecycle, Event, encode, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import subject_of


class Forwarder:
    """`forward` in a task of the test, with its health and its own connection."""

    def __init__(self, runtime: Runtime[ForwarderSettings]) -> None:
        self.health = runtime.health
        self.stopping = runtime.stopping
        self._bus = runtime.bus
        self.task = asyncio.create_task(_run(runtime))

    @property
    def receiver_says(self) -> tuple[bool, str]:
        """The condition of readiness that speaks of the receiver."""
        condition = self.health.report().conditions["receiver"]
        return condition.ok, condition.detail

    def figure(self, name: str) -> float:
        return self.health.report().figures[name]

    def metrics(self) -> str:
        return generate_latest(self.health.registry).decode()

    async def kill(self) -> None:
        """Ends it where it is: nothing is given back, nobody is told."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)
        await self._bus.close()

    async def stop(self) -> None:
        self.stopping.set()
        await self.task
        await self._bus.close()


async def _run(runtime: Runtime[ForwarderSettings]) -> None:
    await forward(runtime)


class Start(Protocol):
    """`await start(**settings)` runs a forwarder, which is stopped after the test."""

    def __call__(self, **settings: Any) -> Awaitable[Forwarder]: ...


def an_event(number: int, **changes: Any) -> Event:
    """One event of many, with an id of its own."""
    given = {
        "id": event_id("test", number),
        "time": format_rfc3339(time.time_ns()),
        "origin": "web-01",
        "agent": "1",
        "body": AgentLifecycle(state="started", run=str(number)),
        **changes,
    }
    return Event(**given)


class Publisher:
    """Publishes numbered events and keeps what JetStream has acknowledged: the obligations."""

    def __init__(self, connection: bus.Bus) -> None:
        self._bus = connection
        self._next = 0
        self.acknowledged: set[str] = set()

    async def publish(self, events: int = 1) -> list[str]:
        """Publishes so many more events, each until it is acknowledged, and returns their ids."""
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
    """What must have come of everything that was published."""

    def __init__(self, publisher: Publisher, receiver: Receiver) -> None:
        self._publisher = publisher
        self._receiver = receiver

    async def __call__(self, duplicates_max: int = 0, seconds: float = 20) -> None:
        """Waits until every obligation is met; then nothing else has come, and hardly any twice."""
        obligations, stored = self._publisher.acknowledged, self._receiver.stored
        await eventually(lambda: obligations <= set(stored), seconds)
        assert set(stored) == obligations
        assert sum(stored.values()) - len(stored) <= duplicates_max


Letter = dict[str, Any]


async def dead_letters(connection: bus.Bus) -> list[Letter]:
    """What is in the stream DEAD: subject, data and headers of each."""
    found: list[Letter] = []
    state = (await connection.request_api("STREAM.INFO.DEAD"))["state"]
    if not state["messages"]:
        return found
    consumer = await connection.request_api(
        "CONSUMER.CREATE.DEAD",
        {"stream_name": "DEAD", "config": {"ack_policy": "none", "mem_storage": True}},
    )
    puller = connection.create_puller("DEAD", consumer["name"], state["messages"])
    async for message in puller:
        found.append({"subject": message.subject, "data": message.data, "headers": message.headers})
        if not message.pending_count:
            break
    await connection.request_api(f"CONSUMER.DELETE.DEAD.{consumer['name']}")
    return found
