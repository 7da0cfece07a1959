"""The bus monitor of `agentctl up`: it shows events, and reports the state of the processes."""

from __future__ import annotations

import asyncio
import datetime
from collections.abc import Iterable
from contextlib import aclosing, suppress

import msgspec

from sematext_agent.agentctl import tap
from sematext_agent.agentctl.screen import Screen
from sematext_agent.agentctl.supervised_process import SupervisedProcess
from sematext_agent.shared import bus
from sematext_agent.shared.bus import Bus, BusError, ConnectionLost, Msg
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.stream_reader import follow_messages, read_backlog
from sematext_agent.shared.subjects import EVENTS_STREAM, EVENTS_SUBJECTS, STATUS_SUBJECT

_BACKLOG_POLL_SECONDS = 0.05


class BusMonitor:
    """The connection of `agentctl up` to its own broker, for people at the screen."""

    def __init__(
        self, settings: ServiceSettings, screen: Screen, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        self._settings = settings
        self._screen = screen
        self._clock = clock
        self._health = Health("agentctl", settings.hostname)
        self._connection: Bus | None = None

    async def run(self, processes: Iterable[SupervisedProcess]) -> None:
        """Show every event, and answer status requests with the state of `processes`; for ever."""

        async def answer(message: Msg) -> None:
            await connection.reply(message, self._report(processes))

        while True:
            since = datetime.datetime.fromtimestamp(self._clock.wall_ns() / 1e9, datetime.UTC)
            self._connection = connection = await bus.connect(self._settings, "agentctl up")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(connection.watch_connection())
                    await connection.subscribe(STATUS_SUBJECT, answer)
                    await self._show_events(connection, since)
            except* ConnectionLost as group:
                self._screen.show(f"connecting anew to the broker: {group.exceptions[0]}")
            finally:
                await connection.close()

    async def wait_until_delivered(self, seconds: float) -> int:
        """Wait for the delivery of all events; return how many are left after `seconds`."""
        deadline = self._clock.monotonic() + seconds
        while (left := await self._count_undelivered()) and self._clock.monotonic() < deadline:
            await asyncio.sleep(_BACKLOG_POLL_SECONDS)
        return left

    async def _count_undelivered(self) -> int:
        """Return the length of the backlog, 0 if it cannot be read."""
        with suppress(BusError):
            connection = self._connection
            if connection and connection.is_connected:
                backlog = await read_backlog(connection)
                return backlog.total if backlog is not None else 0
        return 0

    async def _show_events(self, connection: Bus, since: datetime.datetime) -> None:
        events = follow_messages(connection, EVENTS_STREAM, EVENTS_SUBJECTS, since)
        async with aclosing(events):
            async for message in events:
                self._screen.show(tap.format_message_line(message))

    def _report(self, processes: Iterable[SupervisedProcess]) -> bytes:
        self._health.set_condition("bus", True, "connected")
        for process in processes:
            condition = process.condition
            self._health.set_condition(process.name, condition.ok, condition.detail)
        return msgspec.json.encode(self._health.report())
