"""Follows the stream and asks how the services are, while somebody looks; sleeps otherwise."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import aclosing

from sematext_agent.console import overview
from sematext_agent.console.history import History
from sematext_agent.console.overview import Overview
from sematext_agent.console.rows import row_of
from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import EVENTS_STREAM, EVENTS_SUBJECTS

log = logging.getLogger(__name__)

EVENTS_READ_MAX = 50_000
"""So many of the newest events are read when somebody begins to look; only so many are counted."""
LINGER_SECONDS = 60.0
"""So long after the last viewer has left, what was read is kept: a reload costs nothing."""
ASK_SECONDS = 2.0
VIEWERS_MAX = 50
_BREATH_EVENTS = 256


class Lookout:
    """What every viewer sees. One a process: many viewers cost the bus no more than one."""

    def __init__(self, runtime: Runtime[ConsoleSettings]) -> None:
        self.settings = runtime.settings
        self.bus = runtime.bus
        self.stopping = runtime.stopping
        self.history = History()
        self.overview = Overview(connected=runtime.bus.is_connected)
        self.caught_up = asyncio.Event()
        """Set once what the stream held at first is read."""
        self.viewers = 0
        self._stirred = asyncio.Event()  # a viewer came or went, or the stream is another one
        self._is_another = False
        self._created = ""  # when the stream was made: another one counts from 1 again
        health = runtime.health
        health.add_figure("pages_open", "Pages that are open now.", lambda: self.viewers)
        health.add_figure(
            "events_kept", "Events that can be searched now.", lambda: len(self.history)
        )

    @contextlib.contextmanager
    def looking(self) -> Iterator[None]:
        """Counts one viewer, for as long as it looks."""
        self.viewers += 1
        self._stirred.set()
        try:
            yield
        finally:
            self.viewers -= 1
            self._stirred.set()

    async def keep(self) -> None:
        """Looks while there are viewers; for ever."""
        while True:
            while not self.viewers:
                await self._until_stirred()
            await self._look()
            self.history = History()
            self.overview = Overview(connected=self.bus.is_connected)
            self.caught_up.clear()

    async def _look(self) -> None:
        log.debug("somebody looks")
        self._is_another = False
        async with asyncio.TaskGroup() as tasks:
            helpers = [tasks.create_task(self._follow()), tasks.create_task(self._ask())]
            while not self._is_another:
                try:
                    async with asyncio.timeout(None if self.viewers else LINGER_SECONDS):
                        await self._until_stirred()
                except TimeoutError:
                    break
            for helper in helpers:
                helper.cancel()

    async def _until_stirred(self) -> None:
        await self._stirred.wait()
        self._stirred.clear()

    async def _follow(self) -> None:
        first = await self._first_number()
        history = self.history
        events = follow_messages(self.bus, EVENTS_STREAM, EVENTS_SUBJECTS, first)
        async with aclosing(events):
            async for message in events:
                history.add(row_of(message))
                if not message.pending_count:
                    self.caught_up.set()
                if not history.count % _BREATH_EVENTS:
                    await asyncio.sleep(0)  # a viewer's turn

    async def _first_number(self) -> int:
        """Where to begin, once the stream is there."""
        while self.overview.flow is None:
            await asyncio.sleep(0.05)
        flow = self.overview.flow
        if not flow.messages:
            self.caught_up.set()
        return max(1, flow.first, flow.last - EVENTS_READ_MAX + 1)

    async def _ask(self) -> None:
        while True:
            try:
                self.overview = await overview.ask(self.bus, self.overview)
            except (BusError, TimeoutError) as error:
                log.debug("%s", error)
                self.overview = Overview(connected=self.bus.is_connected)
            self._compare()
            await asyncio.sleep(ASK_SECONDS)

    def _compare(self) -> None:
        """Has everything begun anew where the stream is another one than before."""
        created = self.overview.flow.created if self.overview.flow else self._created
        if self._created and created != self._created:
            self._is_another = True
            self._stirred.set()
        self._created = created
