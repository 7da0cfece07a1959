"""`agentctl up`: the whole agent on this machine, its broker included, until it is stopped.

The stop has an order, because each step needs the next one: the lifecycle collector reports the
stop, the other collectors publish the rest of their events, the forwarder delivers all of them,
and the broker goes last.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import signal
import sys
import uuid
from collections.abc import Iterator, Mapping, Sequence

import msgspec

from sematext_agent.agentctl.broker import Broker
from sematext_agent.agentctl.disk_watchdog import retry_while_disk_is_full
from sematext_agent.agentctl.monitor import BusMonitor
from sematext_agent.agentctl.screen import Screen
from sematext_agent.agentctl.services import CONSOLE, SERVICES, AgentService, StopOrder
from sematext_agent.agentctl.settings import UpSettings
from sematext_agent.agentctl.state import StateDirectory, find_free_port
from sematext_agent.agentctl.supervised_process import SupervisedProcess
from sematext_agent.agentctl.users import (
    REPLAY,
    SUPERVISOR,
    TAP,
    ensure_passwords,
    password_file,
)
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION
from sematext_agent.shared.service import EXIT_SETTINGS
from sematext_agent.shared.settings import Secret, load_settings

DELIVER_SECONDS_MAX = 5
"""Longest wait of a stop for the receiver to take the last events."""
KILL_SECONDS = 5
"""Time beyond its own drain that a service has to stop before it is killed."""


def up(
    state: StateDirectory,
    environ: Mapping[str, str],
    services: Sequence[AgentService] = SERVICES,
) -> int:
    """Run the agent until SIGINT, SIGTERM or SIGHUP; return the exit status.

    Raises:
        CommandError: another agent runs on this state, or the broker is not installed.
        SettingsError: a setting that every service reads cannot be used.
    """
    settings = load_settings(UpSettings, environ)
    with state.lock():
        screen = Screen(sys.stdout)
        try:
            agent = retry_while_disk_is_full(
                lambda: _prepare(settings, state, environ, screen), screen.show
            )
            agent.add_services(select_services(services, settings, environ), environ)
            return asyncio.run(agent.run())
        finally:
            screen.close()


def _prepare(
    settings: UpSettings, state: StateDirectory, environ: Mapping[str, str], screen: Screen
) -> LocalAgent:
    """Write the files of the state directory; return an agent with a broker and no services."""
    passwords = ensure_passwords(state.users)
    url = state.write_broker_url(TAP, passwords[TAP])
    settings = msgspec.structs.replace(
        settings,
        nats_url=(url,),
        nats_user=SUPERVISOR,
        nats_password=Secret(passwords[SUPERVISOR]),
    )
    broker = Broker(state, url, passwords, environ, screen.show_log_line)
    return LocalAgent(settings, state, broker, screen)


def select_services(
    services: Sequence[AgentService], settings: UpSettings, environ: Mapping[str, str]
) -> list[AgentService]:
    """Return the services that are available here and not turned off."""
    return [
        service
        for service in services
        if service.is_available(environ) and (service.name != CONSOLE or settings.console_enabled)
    ]


class LocalAgent:
    """All processes of the agent on this machine."""

    def __init__(
        self, settings: UpSettings, state: StateDirectory, broker: Broker, screen: Screen
    ) -> None:
        self._settings = settings
        self._state = state
        self._broker = broker
        self._screen = screen
        self._monitor = BusMonitor(settings, screen)
        self._services: dict[StopOrder, list[SupervisedProcess]] = {turn: [] for turn in StopOrder}
        self._stopping = asyncio.Event()
        self._settings_problem = ""
        """Last line of a service that could not use its settings."""

    @property
    def _processes(self) -> list[SupervisedProcess]:
        return [self._broker.process, *(p for turn in self._services.values() for p in turn)]

    def add_services(self, services: Sequence[AgentService], environ: Mapping[str, str]) -> None:
        """Prepare the processes of `services`, and show what will run."""
        port = self._settings.console_port
        page_port = port if port and environ.get("CONSOLE_PORT") else find_free_port(port)
        common = {"AGENT_RUN": uuid.uuid4().hex, "CONSOLE_PORT": str(page_port)}
        for service in services:
            environment = service.filter_environment(environ) | common
            self._services[service.stop_order].append(self._supervise(service, environment))
        names = [service.name for service in services]
        for line in describe_start(self._settings, self._state, names, page_port):
            self._screen.show(line)

    async def run(self) -> int:
        """Start everything; return the exit status once everything has ended after a stop."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it for SIGHUP
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        async with asyncio.TaskGroup() as tasks:
            for process in self._processes:
                tasks.create_task(self._keep_running(process), name=process.name)
            monitoring = tasks.create_task(self._monitor.run(self._processes), name="monitor")
            disk_watch = self._broker.watch_disk(self._settings, self._screen.show)
            watching = tasks.create_task(disk_watch, name="disk watchdog")
            await self._stopping.wait()
            watching.cancel()
            await self._stop_services()
            monitoring.cancel()
            await asyncio.wait([monitoring])
            await self._broker.process.stop(KILL_SECONDS)
        if self._settings_problem:
            # Once more, as the last line: the stop of the others has hidden the first.
            self._screen.show(f"agentctl: {self._settings_problem}")
            return EXIT_SETTINGS
        return 0

    def _supervise(self, service: AgentService, environ: Mapping[str, str]) -> SupervisedProcess:
        # The page is a reader, unless it may replay dead letters.
        replays = service.name == CONSOLE and self._settings.console_replay_enabled
        user = REPLAY if replays else service.name
        environment = {
            **environ,
            "NATS_URL": self._broker.url,
            "NATS_USER": user,
            "NATS_PASSWORD": "",
            "NATS_PASSWORD_FILE": str(password_file(self._state.users, user)),
            "API_SERVER_PORT": "0",
        }
        return SupervisedProcess(
            service.name,
            (sys.executable, "-m", service.module),
            environment,
            self._screen.show_log_line,
            with_output=self._settings.logging_write_events,
        )

    async def _keep_running(self, process: SupervisedProcess) -> None:
        """Keep one process running; settings that it cannot use stop the whole agent."""
        if await process.run() == EXIT_SETTINGS and not self._stopping.is_set():
            self._settings_problem = process.last_line
            self._screen.show(f"stopping: {process.name} cannot use its settings")
            self._stopping.set()

    async def _stop_services(self) -> None:
        seconds = self._settings.drain_seconds + KILL_SECONDS
        for turn, processes in self._services.items():
            if turn is StopOrder.LAST and any(process.condition.ok for process in processes):
                await self._wait_until_delivered()
            await asyncio.gather(*(process.stop(seconds) for process in processes))

    async def _wait_until_delivered(self) -> None:
        left = await self._monitor.wait_until_delivered(DELIVER_SECONDS_MAX)
        if left:
            self._screen.show(f"{left} events are not delivered yet; the next start delivers them")

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            # A second signal ends the wait. The services end together with this process.
            for process in self._processes:
                process.send_signal(signal.SIGKILL)
            os._exit(1)
        self._screen.show("stopping (once more to stop at once)")
        self._stopping.set()


def describe_start(
    settings: UpSettings, state: StateDirectory, services: Sequence[str], page_port: int
) -> Iterator[str]:
    """Yield the lines that show, at the start, what runs and where things are."""
    url_file = shlex.quote(str(state.url_file))
    yield f"{AGENT_NAME} {AGENT_VERSION} on {settings.hostname}"
    yield f"  services  {', '.join(services)}"
    if CONSOLE in services:
        yield f"  page      http://127.0.0.1:{page_port}/"
    yield f"  state     {state.directory}"
    yield f"  broker    {settings.nats_url[0]}"
    yield f"  watch     nats --server \"$(cat {url_file})\" sub 'events.>'"
    if not settings.infra_token:
        yield "  dry run: without INFRA_TOKEN nothing leaves this machine"
        if not settings.logging_write_events:
            yield "  LOGGING_WRITE_EVENTS=true shows what would be sent"
