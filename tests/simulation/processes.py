"""The simulated processes: the real runner with a collector or the forwarder, and a supervisor."""

from __future__ import annotations

import asyncio
import signal
import socket
from collections.abc import AsyncIterator, Callable, Coroutine
from functools import partial
from typing import Any, cast

from simulation.broker import Broker
from simulation.client import SimClient
from simulation.network import Link
from simulation.oracle import Oracle
from simulation.receiver import Receiver, SimTransport
from simulation.streams import wall_ns
from simulation.world import ProcessLoop, World

from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.sematext import Sematext
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.transport import Transport
from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.events import DockerEvent, Event, format_rfc3339
from sematext_agent.shared.health import Report
from sematext_agent.shared.service import Runtime, _is_restart, _serve
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.waiting import wait_for_event

RESTART_SECONDS = 1.0

Main = Callable[["Process", SimClient], Coroutine[Any, Any, None]]


class SimClock:
    """The clocks of a simulated process."""

    def __init__(self, world: World) -> None:
        self._world = world

    def monotonic(self) -> float:
        """Return the simulated seconds."""
        return self._world.now

    boottime = monotonic

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch."""
        return wall_ns(self._world.now)


class _NoSocket:
    def getsockname(self) -> tuple[str, int]:
        return "127.0.0.1", 1

    def setblocking(self, _: bool) -> None: ...

    def close(self) -> None: ...


class Process:
    """One process under a supervisor that starts it again whenever it ends."""

    def __init__(self, name: str, world: World, broker: Broker, oracle: Oracle, main: Main) -> None:
        self.name = name
        self.world = world
        self.clock = SimClock(world)
        self.link = Link(world, name)
        self.loop: ProcessLoop | None = None
        self.client: SimClient | None = None
        self.report: Callable[[], Report] | None = None
        self.uniform: Callable[[float, float], float]
        self._broker = broker
        self._oracle = oracle
        self._main = main
        self._starts = 0

    def start(self) -> None:
        """Begin another incarnation."""
        self._starts += 1
        dice = self.world.stream(f"{self.name}/{self._starts}")
        self.uniform = dice.uniform
        loop = ProcessLoop(self.world, f"{self.name}/{self._starts}")  # type: ignore[abstract]
        self.loop = loop
        self.client = SimClient(self._broker, self.link, dice)
        self.world.record(f"{loop} starts")
        main = partial(self._main, self, self.client)
        loop.call_soon(lambda: loop.create_task(main()).add_done_callback(self._on_exit))

    def kill(self, restart_seconds: float) -> None:
        """Die as of SIGKILL, and start again later."""
        if self.loop is not None and self.client is not None:
            self.world.record(f"{self.loop} killed")
            self._end(restart_seconds)

    def freeze(self, is_frozen: bool) -> None:
        """Stop as of SIGSTOP, or go on."""
        if self.loop is not None:
            self.loop.is_frozen = is_frozen
            self.world.record(f"{self.loop} {'stops' if is_frozen else 'goes on'}")

    def terminate(self) -> None:
        """Take a SIGTERM, once in a life."""
        if self.loop is None:
            return
        callback, arguments = self.loop.signal_handlers.pop(signal.SIGTERM, (None, ()))
        if callback is not None:
            self.world.record(f"{self.loop} gets SIGTERM")
            self.loop.call_soon(callback, *arguments)

    def _on_exit(self, task: asyncio.Future[None]) -> None:
        if self.loop is None:
            return
        fault = None if task.cancelled() else task.exception()
        self.world.record(f"{self.loop} ends: {fault!r}")
        if fault is not None and not _is_restart(fault):
            self.world.report_anomaly(f"{self.name} ended by {_describe(fault)}")
        self._end(RESTART_SECONDS, is_orderly=fault is None)

    def _end(self, restart_seconds: float, is_orderly: bool = False) -> None:
        assert self.loop is not None
        assert self.client is not None
        self._oracle.record_death(self.loop, is_orderly)
        self.client.abandon()
        self.loop.kill()
        self.loop = self.client = self.report = None
        self.world.call_later(restart_seconds, self.start)


def _describe(fault: BaseException) -> str:
    while isinstance(fault, BaseExceptionGroup):
        fault = fault.exceptions[0]
    return repr(fault)


async def serve(
    process: Process,
    client: SimClient,
    name: str,
    work: Callable[[Runtime[Any]], Any],
    settings: ServiceSettings,
) -> None:
    """Run the real runner of services in a simulated process."""

    async def reporting_work(runtime: Runtime[Any]) -> None:
        process.report = runtime.health.report
        await work(runtime)

    await _serve(
        name,
        reporting_work,
        settings,
        lambda _: cast(socket.socket, _NoSocket()),
        lambda: client,
        process.clock,
        process.uniform,
    )


class Source:
    """A scripted source: a log whose entries appear at times that are known before."""

    def __init__(self, origin: str, times: list[float]) -> None:
        self.origin = origin
        self.times = times

    def event_id(self, number: int) -> str:
        """Return the id of one event."""
        return f"{self.origin}-{number}"

    def event(self, number: int) -> Event:
        """Return one event."""
        body = DockerEvent(
            type="container",
            action="start",
            actor_id=f"container{number}",
            attributes={"name": f"numbered-{number}"},
        )
        return Event(
            id=self.event_id(number),
            time=format_rfc3339(wall_ns(self.times[number - 1])),
            origin=self.origin,
            agent="1",
            body=body,
        )

    async def watch(
        self, runtime: Runtime[ServiceSettings], cursor: bytes | None
    ) -> AsyncIterator[Observation]:
        """Yield every event from the cursor on, the number of the last one."""
        position = int(cursor or 0)
        while not runtime.stopping.is_set():
            now = runtime.clock.monotonic()
            if position < len(self.times) and self.times[position] <= now:
                position += 1
                yield Observation(self.event(position), b"%d" % position)
            elif position < len(self.times):
                await wait_for_event(runtime.stopping, self.times[position] - now)
            else:
                await runtime.stopping.wait()


def collector_main(source: Source) -> Main:
    """Return the main function of a collector."""
    settings = ServiceSettings(hostname_alias=source.origin)

    async def main(process: Process, client: SimClient) -> None:
        await serve(process, client, "docker", collect(source.watch), settings)

    return main


def forwarder_main(receiver: Receiver) -> Main:
    """Return the main function of a forwarder."""
    settings = ForwarderSettings(
        hostname_alias="forwarder", infra_token=Secret("token"), stream_bytes_max=64 * 1024 * 1024
    )

    async def main(process: Process, client: SimClient) -> None:
        loop = process.loop
        assert loop is not None

        def create_destination(settings: ForwarderSettings) -> Sematext:
            return Sematext(settings, cast(Transport, SimTransport(receiver, loop)))

        async def work(runtime: Runtime[ForwarderSettings]) -> None:
            await forward(runtime, create_destination, process.uniform)

        await serve(process, client, "forwarder", work, settings)

    return main
