"""The one runner of every process: settings, signals, bus, health, and an orderly end.

A service hands `run` its name, its settings and its work. A collector's work is `collect(watch)`,
see `shared.collector`.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from sematext_agent.shared import AGENT_NAME, AGENT_VERSION, bus, listener, logs
from sematext_agent.shared.bus import Msg, TolerantClient
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.cursors import Cursors
from sematext_agent.shared.health import Health
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.retry import Uniform
from sematext_agent.shared.settings import (
    ServiceSettings,
    SettingsError,
    find_unknown_variables,
    load_settings,
)
from sematext_agent.shared.subjects import STATUS_SUBJECT
from sematext_agent.shared.waiting import run_until_event

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer

log = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)

EXIT_SETTINGS = 2
"""Exit status of a process that cannot use its settings: a restart does not help."""


class Runtime(Generic[S]):
    """The means of a running service: settings, clock, randomness, health, bus and cursors."""

    def __init__(
        self,
        settings: S,
        health: Health,
        bus: bus.Bus,
        stopping: asyncio.Event,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Uniform | None = None,
    ) -> None:
        """Hold the means; `clock` and `uniform` replace the system's in a simulation."""
        self.settings = settings
        self.clock = clock
        self.uniform = uniform
        """Randomness for each `Backoff`."""
        self.health = health
        self.bus = bus
        self.cursors = Cursors(bus, health, uniform)
        """The progress of a collector: see `shared.collector.read_cursor`."""
        self.stopping = stopping
        """Set once, when the process is to end: finish what is in flight, then return."""

    @property
    def origin(self) -> str:
        """The name that events and cursors bear: this host's.

        A service whose source is not its host, such as a cluster, names the source instead, before
        it begins to collect: its replicas on other hosts share the cursor then.
        """
        return self.health.origin

    @origin.setter
    def origin(self, origin: str) -> None:
        self.health.origin = origin


Work = Callable[[Runtime[S]], Awaitable[None]]


def run(name: str, work: Work[S], settings_type: type[S]) -> None:
    """Run a service until SIGTERM or SIGINT, then exit with 0.

    Exits with 2 after one clear line where the settings cannot be used, and with 1 after a fault,
    so that a supervisor starts the process again. Work that returns before the stop is a fault. A
    fault is logged with its traceback, unless it is a `RestartRequested`.
    """
    try:
        settings = load_settings(settings_type, os.environ)
        logs.configure_logging(name, settings.logging_level, settings.secrets)
        if names := find_unknown_variables(settings_type, os.environ):
            log.warning(
                "unknown settings: %s have no effect (correct or unset them)", ", ".join(names)
            )
        asyncio.run(_serve(name, work, settings))
    except SettingsError as error:
        sys.exit(_report_unusable(name, error))
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, BaseExceptionGroup) as fault:
        if isinstance(fault, BaseExceptionGroup) and (unusable := fault.subgroup(SettingsError)):
            sys.exit(_report_unusable(name, unusable))
        # Through the log, where no text of a source can pose as an entry, and no secret is shown.
        if _is_restart(fault):
            log.error("restart requested: %s", _find_first_error(fault))
        else:
            log.exception("ended by a fault: %s", _find_first_error(fault))
        sys.exit(1)


def _report_unusable(name: str, error: BaseException) -> int:
    """Print one line on the settings that cannot be used; return the exit status for it."""
    print(logs.escape(f"{name}: {_find_first_error(error)}"), file=sys.stderr)  # noqa: T201 - no log yet
    return EXIT_SETTINGS


def _is_restart(fault: BaseException) -> bool:
    if isinstance(fault, BaseExceptionGroup):
        return all(map(_is_restart, fault.exceptions))
    return isinstance(fault, RestartRequested)


def _find_first_error(error: BaseException) -> BaseException:
    """Return the error itself, or the first one of a group."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def _open_health_socket(settings: ServiceSettings) -> socket.socket:
    host, port = settings.api_server_host, settings.api_server_port
    try:
        return listener.listen(host, port)
    except OSError as error:
        raise SettingsError(
            f"API_SERVER_HOST={host} API_SERVER_PORT={port}",
            f"cannot listen ({error.strerror})",
            "free the port or choose another",
        ) from None


async def _serve(
    name: str,
    work: Work[S],
    settings: S,
    listen: Callable[[ServiceSettings], socket.socket] = _open_health_socket,
    client: Callable[[], TolerantClient] = TolerantClient,
    clock: Clock = SYSTEM_CLOCK,
    uniform: Uniform | None = None,
) -> None:
    """Run the service between its first and its last log line.

    A simulation replaces the health listener, the client of the bus, the clock and the randomness.
    """
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stopping)
    health = Health(name, settings.hostname, clock)
    health_socket = listen(settings)
    address = health_socket.getsockname()[:2]
    log.info("%s %s, health on %s port %d", AGENT_NAME, AGENT_VERSION, *address)
    async with asyncio.TaskGroup() as tasks:
        build = partial(_build_health_server, health, settings.api_server_host)
        serving = tasks.create_task(listener.serve(health_socket, build), name="health")
        connecting = bus.connect(settings, f"{name} {settings.hostname}", client, uniform)
        connection = await run_until_event(stopping, connecting)
        if connection is not None:
            try:
                runtime = Runtime(settings, health, connection, stopping, clock, uniform)
                await _work(name, work, runtime)
            finally:
                await connection.close()
        serving.cancel()
    log.info("stopped")


async def _work(name: str, work: Work[S], runtime: Runtime[S]) -> None:
    """Do the work and watch the connection beside it; end when the work ends."""
    health, connection = runtime.health, runtime.bus

    async def answer_status(request: Msg) -> None:
        await connection.reply(request, msgspec.json.encode(health.report()))

    def on_connection(up: bool) -> None:
        health.set_condition("bus", up, "connected" if up else "the broker is away")

    connection.on_connection = on_connection
    connection.on_problem = health.record_error
    on_connection(connection.is_connected)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(connection.watch_connection(), name="bus")
        unsubscribe = await connection.subscribe(STATUS_SUBJECT, answer_status)
        await work(runtime)
        if not runtime.stopping.is_set():
            raise RuntimeError(f"the work of {name} ended by itself")
        await unsubscribe()
        connection.on_connection = lambda up: None
        watching.cancel()


def _build_health_server(health: Health, address: str) -> HttpServer:
    from sematext_agent.shared import http_server  # at the first request: see shared.listener

    return http_server.build_health_server(health, address)


def _on_signal(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        # The second signal: whoever sends it does not want to wait for the drain.
        os._exit(1)
    log.info("stopping")
    stopping.set()
