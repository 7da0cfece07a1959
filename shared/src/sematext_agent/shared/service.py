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
from sematext_agent.shared.bus import Msg
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.cursors import Cursors
from sematext_agent.shared.health import Health
from sematext_agent.shared.restart import RestartRequested
from sematext_agent.shared.settings import (
    ServiceSettings,
    SettingsError,
    find_unknown_variables,
    load_settings,
)
from sematext_agent.shared.subjects import STATUS_SUBJECT

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer

log = logging.getLogger(__name__)

S = TypeVar("S", bound=ServiceSettings)

EXIT_SETTINGS = 2
"""The exit status of a process that could not use its settings: starting it again is no use."""


class Runtime(Generic[S]):
    """What a running service has at hand."""

    def __init__(
        self,
        settings: S,
        health: Health,
        bus: bus.Bus,
        stopping: asyncio.Event,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.settings = settings
        self.clock = clock
        self.health = health
        self.bus = bus
        self.cursors = Cursors(bus, health)
        """What a collector keeps of its progress: see `shared.collector.read_cursor`."""
        self.stopping = stopping
        """Set once, when the process shall end: finish what is held, then return."""

    @property
    def origin(self) -> str:
        """Whose events these are, and whose cursors: this host's.

        A service whose source is not its host, such as a cluster, names the source instead, before
        it begins to collect: its replicas on other hosts share the cursor then.
        """
        return self.health.origin

    @origin.setter
    def origin(self, origin: str) -> None:
        self.health.origin = origin


Work = Callable[[Runtime[S]], Awaitable[None]]


def run(name: str, work: Work[S], settings_type: type[S]) -> None:
    """Runs a service until it is told to stop, then exits with 0.

    Exits with 2 after one clear line where the settings cannot be used, and with 1 after a fault,
    so that a supervisor starts the process again. Work that returns unasked is a fault. A fault is
    told with its traceback, unless it is a `RestartRequested`.
    """
    try:
        settings = load_settings(settings_type, os.environ)
        logs.configure_logging(name, settings.logging_level, settings.secrets)
        if names := find_unknown_variables(settings_type, os.environ):
            log.warning("not known here and without effect: %s", ", ".join(names))
        asyncio.run(_serve(name, work, settings))
    except SettingsError as error:
        sys.exit(_unusable(name, error))
    except KeyboardInterrupt:
        sys.exit(130)
    except (Exception, BaseExceptionGroup) as fault:
        if isinstance(fault, BaseExceptionGroup) and (unusable := fault.subgroup(SettingsError)):
            sys.exit(_unusable(name, unusable))
        # Through the log, where no text of a source can pose as an entry, and no secret is shown.
        if _is_foreseen(fault):
            log.error("ended, to be started anew: %s", _first(fault))
        else:
            log.exception("ended by a fault: %s", _first(fault))
        sys.exit(1)


def _unusable(name: str, error: BaseException) -> int:
    """Says in one line what is wrong with the settings, and returns the exit status for it."""
    print(logs.escape(f"{name}: {_first(error)}"), file=sys.stderr)  # noqa: T201 - no log yet
    return EXIT_SETTINGS


def _is_foreseen(fault: BaseException) -> bool:
    if isinstance(fault, BaseExceptionGroup):
        return all(map(_is_foreseen, fault.exceptions))
    return isinstance(fault, RestartRequested)


def _first(error: BaseException) -> BaseException:
    """The error itself, or the first one that a group holds."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


async def _serve(name: str, work: Work[S], settings: S) -> None:
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, _on_signal, stopping)
    health = Health(name, settings.hostname)
    asked = _listen(settings)
    log.info("%s %s, health on %s port %d", AGENT_NAME, AGENT_VERSION, *asked.getsockname()[:2])
    async with asyncio.TaskGroup() as tasks:
        serving = tasks.create_task(listener.serve(asked, partial(_pages, health)), name="health")
        connecting = asyncio.create_task(bus.connect(settings, f"{name} {settings.hostname}"))
        stopped = asyncio.create_task(stopping.wait())
        await asyncio.wait((connecting, stopped), return_when=asyncio.FIRST_COMPLETED)
        if connecting.done():
            connection = connecting.result()
            try:
                await _work(name, work, Runtime(settings, health, connection, stopping))
            finally:
                await connection.close()
        connecting.cancel()
        stopped.cancel()
        serving.cancel()
    log.info("stopped")


async def _work(name: str, work: Work[S], runtime: Runtime[S]) -> None:
    """The work, beside what watches over the bus; ends when the work ends."""
    health, connection = runtime.health, runtime.bus

    async def answer(message: Msg) -> None:
        await connection.reply(message, msgspec.json.encode(health.report()))

    def on_connection(up: bool) -> None:
        health.set_condition("bus", up, "connected" if up else "the broker is away")

    connection.on_connection = on_connection
    connection.on_problem = health.record_error
    on_connection(connection.is_connected)
    async with asyncio.TaskGroup() as tasks:
        guard = tasks.create_task(connection.watch_connection(), name="bus")
        end = await connection.subscribe(STATUS_SUBJECT, answer)
        await work(runtime)
        if not runtime.stopping.is_set():
            raise RuntimeError(f"the work of {name} ended by itself")
        await end()
        connection.on_connection = lambda up: None
        guard.cancel()


def _pages(health: Health) -> HttpServer:
    from sematext_agent.shared import http_server  # at the first question only: see shared.listener

    return http_server.build_http_server(http_server.build_health_app(health))


def _listen(settings: ServiceSettings) -> socket.socket:
    host, port = settings.api_server_host, settings.api_server_port
    try:
        return listener.listen(host, port)
    except OSError as error:
        raise SettingsError(
            f"API_SERVER_HOST={host} API_SERVER_PORT={port}",
            f"cannot listen ({error.strerror})",
            "free the port or choose another",
        ) from None


def _on_signal(stopping: asyncio.Event) -> None:
    if stopping.is_set():
        # Asked twice: whoever asks does not want to wait for the drain.
        os._exit(1)
    log.info("stopping")
    stopping.set()
