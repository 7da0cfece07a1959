"""`agentctl up`: the whole agent on this machine, its broker included, until it is told to stop.

The stop has an order, because each step still needs the next: the lifecycle collector tells that
the agent stops, the other collectors bring what they hold to the stream, the forwarder ships, the
broker goes last.
"""

from __future__ import annotations

import asyncio
import datetime
import os
import re
import secrets
import shlex
import signal
import sys
import time
import uuid
from collections.abc import Mapping
from contextlib import aclosing, suppress
from functools import partial

import msgspec

from sematext_agent.agentctl import broker, tap, vigil
from sematext_agent.agentctl.parts import (
    CONSOLE,
    FIRST,
    LAST,
    PARTS,
    SECOND,
    Part,
    Supervised,
    without_secrets,
)
from sematext_agent.agentctl.screen import Screen
from sematext_agent.agentctl.state import State, free_port
from sematext_agent.agentctl.users import OVERSEER, REPLAY, TAP, password_file, passwords
from sematext_agent.shared import AGENT_NAME, AGENT_VERSION, bus
from sematext_agent.shared.bus import Bus, BusError, ConnectionLost, Msg
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import EXIT_SETTINGS
from sematext_agent.shared.settings import Port, Secret, ServiceSettings, load_settings
from sematext_agent.shared.stream_reader import follow_messages, read_backlog
from sematext_agent.shared.subjects import EVENTS_STREAM, EVENTS_SUBJECTS, STATUS_SUBJECT
from sematext_agent.shared.summary import format_local_time

SHIP_SECONDS_MAX = 5
"""How long a stop waits for the receiver to take what was told last."""
KILL_SECONDS = 5
"""How much longer than its own drain a part may take before it is killed."""
_OWN_LOG = re.compile(r"(\S+Z) ([A-Z]+) \w+: (.*)")


class UpSettings(ServiceSettings, frozen=True, kw_only=True):
    infra_token: Secret = Secret("")
    """Read here only to say that there is none. The forwarder uses it."""
    logging_write_events: bool = False
    """Shows what the parts print beside their logs: the forwarder's documents."""
    console_enabled: bool = True
    """Serves the live page."""
    console_replay_enabled: bool = False
    """Lets it send dead letters once more."""
    console_port: Port = 8676
    """Where; unless it is set, another one is taken while somebody else has it."""


def up(state: State, environ: Mapping[str, str], parts: tuple[Part, ...] = PARTS) -> int:
    """Runs the agent until SIGINT, SIGTERM or SIGHUP; returns the exit status.

    Raises:
        CommandError: another agent runs on this state, or the broker is not installed.
        SettingsError: a setting that every part reads cannot be used.
    """
    settings = load_settings(UpSettings, environ)
    with state.held():
        known, system_password = passwords(state.users), secrets.token_urlsafe(24)
        url = state.broker_url(TAP, known[TAP])
        command = broker.command(state, url, known, system_password)
        screen = Screen(sys.stdout)
        try:
            agent = Agent(environ, _at_broker(settings, url, known[OVERSEER]), state, screen)
            here = tuple(part for part in parts if part.is_here(environ))
            if not settings.console_enabled:
                here = tuple(part for part in here if part.name != CONSOLE)
            agent.introduce(here)
            return asyncio.run(agent.run(command, here, system_password))
        finally:
            screen.close()


def _at_broker(settings: UpSettings, url: str, password: str) -> UpSettings:
    """`settings` with the broker of this agent in the place of any other."""
    return msgspec.structs.replace(
        settings, nats_url=(url,), nats_user=OVERSEER, nats_password=Secret(password)
    )


class Agent:
    """All processes of the agent on this machine."""

    def __init__(
        self, environ: Mapping[str, str], settings: UpSettings, state: State, screen: Screen
    ) -> None:
        self._environ = environ
        self._settings = settings
        self._state = state
        self._screen = screen
        self._run_id = uuid.uuid4().hex
        port = settings.console_port
        self._page_port = port if port and environ.get("CONSOLE_PORT") else free_port(port)
        self._processes: list[Supervised] = []
        self._health = Health("agentctl", settings.hostname)
        self._connection: Bus | None = None
        self._stopping = asyncio.Event()
        self._unusable = ""
        """What a part said of settings that it cannot use."""

    async def run(
        self, broker_command: tuple[str, ...], parts: tuple[Part, ...], system_password: str
    ) -> int:
        """Starts everything, and returns once it is told to stop and everything has ended."""
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            if signal.getsignal(number) != signal.SIG_IGN:  # as `nohup` has it for SIGHUP
                asyncio.get_running_loop().add_signal_handler(number, self._on_signal)
        server = Supervised("nats", broker_command, without_secrets(self._environ), self._show_line)
        turns: dict[int, list[Supervised]] = {FIRST: [], SECOND: [], LAST: []}
        for part in parts:
            turns[part.stops].append(self._supervise(part))
        self._processes = [server, *(process for turn in turns.values() for process in turn)]
        async with asyncio.TaskGroup() as tasks:
            for process in self._processes:
                tasks.create_task(self._keep(process), name=process.name)
            looking = tasks.create_task(self._look_on(), name="look on")
            guarding = tasks.create_task(self._guard_disk(server, system_password), name="disk")
            await self._stopping.wait()
            guarding.cancel()
            await self._stop(turns)
            looking.cancel()
            await asyncio.wait([looking])
            await server.stop(KILL_SECONDS)
        if self._unusable:
            # Once more, as the last line: the stop of the others has hidden the first.
            self._screen.show(f"agentctl: {self._unusable}")
            return EXIT_SETTINGS
        return 0

    def _supervise(self, part: Part) -> Supervised:
        environment = part.environment(self._environ)
        # The page is a reader, unless it is to send dead letters once more.
        replays = part.name == CONSOLE and self._settings.console_replay_enabled
        user = REPLAY if replays else part.name
        environment |= {
            "NATS_URL": self._settings.nats_url[0],
            "NATS_USER": user,
            "NATS_PASSWORD": "",
            "NATS_PASSWORD_FILE": str(password_file(self._state.users, user)),
            "AGENT_RUN": self._run_id,
            "API_SERVER_PORT": "0",
            "CONSOLE_PORT": str(self._page_port),
        }
        command = (sys.executable, "-m", part.module)
        with_output = self._settings.logging_write_events
        return Supervised(part.name, command, environment, self._show_line, with_output)

    async def _guard_disk(self, server: Supervised, system_password: str) -> None:
        """Starts the broker again when a full disk has frozen it and there is room again."""
        settings = msgspec.structs.replace(
            self._settings, nats_user=broker.SYSTEM_USER, nats_password=Secret(system_password)
        )

        def restart(problem: str) -> None:
            self._screen.show(f"starting the broker again, because there is room: {problem}")
            server.restart()

        connection = await bus.connect(settings, "agentctl up, disk")
        try:
            await vigil.watch_disk(
                partial(vigil.unwell, connection), restart, self._state.directory
            )
        finally:
            await connection.close()

    async def _keep(self, process: Supervised) -> None:
        """Keeps one process running; settings that it cannot use stop the whole agent."""
        if await process.run() == EXIT_SETTINGS and not self._stopping.is_set():
            self._unusable = process.last_line
            self._screen.show(f"stopping: {process.name} cannot use its settings")
            self._stopping.set()

    async def _stop(self, turns: Mapping[int, list[Supervised]]) -> None:
        seconds = self._settings.drain_seconds + KILL_SECONDS
        for turn, processes in turns.items():
            if turn == LAST and any(process.condition.ok for process in processes):
                await self._until_shipped()
            await asyncio.gather(*(process.stop(seconds) for process in processes))

    async def _until_shipped(self) -> None:
        """Waits until the forwarder has shipped everything, for a few seconds at most."""
        deadline = time.monotonic() + SHIP_SECONDS_MAX
        while (left := await self._left_to_ship()) and time.monotonic() < deadline:
            await asyncio.sleep(0.05)
        if left:
            self._screen.show(f"{left} events are not shipped yet; the next start ships them")

    async def _left_to_ship(self) -> int:
        with suppress(BusError):
            bus = self._connection
            if bus and bus.is_connected and (behind := await read_backlog(bus)):
                return behind.total
        return 0

    def _on_signal(self) -> None:
        if self._stopping.is_set():
            # Asked twice: no more waiting. The parts end together with this process.
            for process in self._processes:
                process.kill()
            os._exit(1)
        self._screen.show("stopping (once more to stop at once)")
        self._stopping.set()

    def introduce(self, parts: tuple[Part, ...]) -> None:
        """Says what runs, and where things are."""
        url_file = shlex.quote(str(self._state.url_file))
        for line in (
            f"{AGENT_NAME} {AGENT_VERSION} on {self._settings.hostname}",
            f"  parts   {', '.join(part.name for part in parts)}",
            *(
                f"  page    http://127.0.0.1:{self._page_port}/"
                for part in parts
                if part.name == CONSOLE
            ),
            f"  state   {self._state.directory}",
            f"  broker  {self._settings.nats_url[0]}",
            f"  watch   nats --server \"$(cat {url_file})\" sub 'events.>'",
        ):
            self._screen.show(line)
        if not self._settings.infra_token:
            self._screen.show("  dry run: without INFRA_TOKEN nothing leaves this machine")
            if not self._settings.logging_write_events:
                self._screen.show("  LOGGING_WRITE_EVENTS=true shows what would be sent")

    def _show_line(self, name: str, line: str) -> None:
        """A line that a part printed; of its own log without what is said here already."""
        own = _OWN_LOG.fullmatch(line)
        if own is None:
            self._screen.show(f"{'':12} {name:<10} | {line}")
        else:
            when, level, text = own.groups()
            level = "" if level == "INFO" else f"{level} "
            self._screen.show(f"{format_local_time(when)} {name:<10} | {level}{text}")

    async def _look_on(self) -> None:
        """Shows every event, and answers for the processes when somebody asks how they are."""
        while True:
            since = datetime.datetime.now(datetime.UTC)
            self._connection = await bus.connect(self._settings, "agentctl up")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._connection.watch_connection())
                    await self._connection.subscribe(STATUS_SUBJECT, self._answer)
                    await self._show_events(self._connection, since)
            except* ConnectionLost as group:
                self._screen.show(f"connecting anew to the broker: {group.exceptions[0]}")
            finally:
                await self._connection.close()

    async def _show_events(self, connection: Bus, since: datetime.datetime) -> None:
        events = follow_messages(connection, EVENTS_STREAM, EVENTS_SUBJECTS, since)
        async with aclosing(events):
            async for message in events:
                self._screen.show(tap.in_words(message))

    async def _answer(self, message: Msg) -> None:
        self._health.set_condition("bus", True, "connected")
        for process in self._processes:
            self._health.set_condition(process.name, process.condition.ok, process.condition.detail)
        if self._connection is not None:
            await self._connection.reply(message, msgspec.json.encode(self._health.report()))
