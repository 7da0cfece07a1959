"""Many hosts in one process, each with a collector, origin, window and cursor of its own."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterable
from pathlib import Path

from fleet_servers import PASSWORD
from receiver import TOKEN

from sematext_agent.shared import bus
from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.events import DockerEvent, Event, event_id, format_rfc3339
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.settings import Duration, Secret, ServiceSettings
from sematext_agent.shared.waiting import wait_for_event

_CONNECTIONS = 8


def settings_for(urls: Iterable[str]) -> ServiceSettings:
    return ServiceSettings(
        nats_url=tuple(urls),
        nats_user="agent",
        nats_password=Secret(PASSWORD),
        drain_seconds=Duration(60),
    )


def an_event(origin: str, number: int) -> Event:
    """Return the `die` of a container as an engine sends it, with the labels that compose adds."""
    return Event(
        id=event_id("fleet", origin, number),
        time=format_rfc3339(time.time_ns()),
        origin=origin,
        agent="0",
        body=DockerEvent(
            type="container",
            action="die",
            actor_id=f"{number:064x}",
            attributes={
                "name": f"shop_web_{number}",
                "image": "registry.example.org/shop/web:1.25",
                "exitCode": "137",
                "execDuration": "4821",
            },
            labels={
                "com.docker.compose.project": "shop",
                "com.docker.compose.service": "web",
                "com.docker.compose.container-number": str(number),
            },
        ),
    )


class Origins:
    """`count` hosts, each of which publishes an event every `seconds` until `stop`.

    Each runs `collect`, as every collector does, over a few connections that they share.
    """

    def __init__(self, urls: Iterable[str], count: int, seconds: float, prefix: str = "host"):
        self._settings = settings_for(urls)
        self._names = [f"{prefix}-{number:04}" for number in range(count)]
        self._seconds = seconds
        self._stopping = asyncio.Event()
        self._connections: list[bus.Bus] = []
        self._tasks: list[asyncio.Task[None]] = []
        self.obligations: dict[str, str] = {}
        """The origins of all events that were handed to the collectors, by the event's id."""

    async def __aenter__(self) -> Origins:
        self._connections = [
            await bus.connect(self._settings, "origins") for _ in range(_CONNECTIONS)
        ]
        for number, name in enumerate(self._names):
            connection = self._connections[number % _CONNECTIONS]
            runtime = Runtime(self._settings, Health("docker", name), connection, self._stopping)
            self._tasks.append(asyncio.create_task(_run(runtime, self, number)))
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()
        for connection in self._connections:
            await connection.close()

    async def stop(self) -> None:
        """Stop all hosts; return once each of their events is safe in a stream."""
        self._stopping.set()
        await asyncio.gather(*self._tasks)

    async def watch(
        self, runtime: Runtime[ServiceSettings], cursor: bytes | None, first: float
    ) -> AsyncIterator[Observation]:
        number = int(cursor or 0)
        wait = first
        while not await wait_for_event(self._stopping, wait):
            wait = self._seconds
            event = an_event(runtime.origin, number)
            self.obligations[event.id] = event.origin
            number += 1
            yield Observation(event, b"%d" % number)


async def _run(runtime: Runtime[ServiceSettings], origins: Origins, number: int) -> None:
    first = origins._seconds * number / len(origins._names)  # hosts spread over the interval

    def watch(
        runtime: Runtime[ServiceSettings], cursor: bytes | None
    ) -> AsyncIterator[Observation]:
        return origins.watch(runtime, cursor, first)

    await collect(watch)(runtime)


def start_forwarder(
    urls: Iterable[str], receiver: str, log: Path, **settings: object
) -> subprocess.Popen[bytes]:
    """Start a forwarder as a process of its own, which can be killed."""
    environment = {
        "NATS_URL": ",".join(urls),
        "NATS_USER": "agent",
        "NATS_PASSWORD": PASSWORD,
        "INFRA_TOKEN": TOKEN,
        "EVENTS_RECEIVER_URL": receiver,
        "LOGGING_LEVEL": "info",
        **{name.upper(): str(value) for name, value in settings.items()},
    }
    with log.open("ab") as output:
        return subprocess.Popen(
            [sys.executable, "-m", "sematext_agent.forwarder"],
            env={**os.environ, **environment},
            stderr=output,
        )
