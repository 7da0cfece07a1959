"""A run of the watch in a test, from its start to its stop, with the events it emitted."""

from __future__ import annotations

import asyncio
import contextlib
from contextlib import aclosing
from typing import Any

import pytest
from broker import wait_until
from fake_engine import FakeEngine

from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.watch import watch
from sematext_agent.shared.events import DockerEvent, Event, Gap
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

LEAKED_SOCKETS = [
    # A request under way when a test ends its engine: the SDK leaves the socket of a failed attempt
    # to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]
"""Marks for tests in which a request may fail."""


class WatchRun:
    """A run of the watch, from its start to its stop."""

    def __init__(self, address: str, cursor: bytes | None = None, **settings: Any) -> None:
        self.events: list[Event] = []
        self.cursor = cursor
        self.stopping = asyncio.Event()
        self.health = Health("docker", "web-01")
        self.bus_is_available = asyncio.Event()
        self.bus_is_available.set()
        docker_settings = DockerSettings(
            docker_transport=address, hostname_alias="web-01", **settings
        )
        self._runtime = Runtime(docker_settings, self.health, None, self.stopping)  # type: ignore[arg-type]

    async def __aenter__(self) -> WatchRun:
        self._task = asyncio.create_task(self._take())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        async with asyncio.timeout(10):
            await self._task

    async def kill(self) -> None:
        """End the run as a SIGKILL does: nothing more is taken from the watch."""
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._task = asyncio.create_task(asyncio.sleep(0))

    async def _take(self) -> None:
        observations = watch(self._runtime, self.cursor)
        async with aclosing(observations):  # type: ignore[type-var]
            async for observation in observations:
                await self.bus_is_available.wait()
                if observation.event is not None:
                    self.events.append(observation.event)
                self.cursor = observation.cursor or self.cursor

    async def until_count(self, count: int) -> list[str]:
        """Wait for so many events, and return their actions."""
        await wait_until(lambda: len(self.events) >= count, seconds=10)
        return self.actions()

    async def until_exactly(self, *actions: str) -> None:
        """Wait for these actions, and a moment in which any further one would show; assert none."""
        await wait_until(lambda: set(self.actions()) >= set(actions), seconds=10)
        await asyncio.sleep(0.1)
        assert self.actions() == list(actions)

    def actions(self) -> list[str]:
        """Return the actions of the events so far."""
        return [name_event(event) for event in self.events]

    def source(self) -> tuple[bool, str]:
        """Return the condition of the source: whether it is well, and its text."""
        condition = self.health.report().conditions["source"]
        return condition.ok, condition.detail

    async def connected(self, engine: FakeEngine) -> WatchRun:
        """Wait until the watch has opened a stream of `engine`."""
        await wait_until(lambda: bool(engine.streams), seconds=10)
        return self


def name_event(event: Event) -> str:
    """Return the action of an event, or the reason of a gap."""
    match event.body:
        case DockerEvent(action=action, synthetic=synthetic):
            return f"synthetic {action}" if synthetic else action
        case Gap(reason=reason):
            return f"gap: {reason}"
    raise AssertionError(event)


def docker_body(event: Event) -> DockerEvent:
    """Return the body of an event of the engine."""
    assert isinstance(event.body, DockerEvent)
    return event.body
