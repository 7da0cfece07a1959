"""The live feed of all open pages: it follows the stream of events while a page is open."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Iterator
from contextlib import aclosing

from sematext_agent.console.history import History
from sematext_agent.console.rows import row_of
from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.overview import (
    DeliveryRates,
    Overview,
    compute_rates,
    disconnected_overview,
    read_overview,
)
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import EVENTS_STREAM, EVENTS_SUBJECTS
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

EVENTS_READ_MAX = 50_000
"""Newest events that are read when the first page opens; the counts begin with them."""
LINGER_SECONDS = 60.0
"""Time for which the history outlives the last page, so that a reload costs nothing."""
OVERVIEW_SECONDS = 2.0
VIEWERS_MAX = 50
_EVENTS_PER_TURN = 256
_STREAM_POLL_SECONDS = 0.05
_CATCH_UP_POLL_SECONDS = 0.02


class LiveFeed:
    """The state that every open page shows: one for a process, so more pages cost the bus nothing.

    Attributes:
        history: the newest events.
        overview: the newest overview of the agent.
        rates: events a second between the two newest overviews.
        viewers: pages that are open.
        caught_up: set when the events that the stream held at first are read.
    """

    def __init__(self, runtime: Runtime[ConsoleSettings]) -> None:
        self.runtime = runtime
        self.history = History(runtime.clock)
        self.overview = disconnected_overview(runtime.clock)
        self.rates = DeliveryRates()
        self.caught_up = asyncio.Event()
        self.viewers = 0
        self._changed = asyncio.Event()  # a page opened or closed, or the stream was replaced
        self._stream_replaced = False
        self._stream_created = ""
        health = runtime.health
        health.add_figure("pages_open", "Pages that are open now.", lambda: self.viewers)
        health.add_figure(
            "events_kept", "Events that can be searched now.", lambda: len(self.history)
        )

    @contextlib.contextmanager
    def open_viewer(self) -> Iterator[None]:
        """Count one open page, until it is closed."""
        self.viewers += 1
        self._changed.set()
        try:
            yield
        finally:
            self.viewers -= 1
            self._changed.set()

    async def run(self) -> None:
        """Feed the pages while there are any; for ever."""
        while True:
            while not self.viewers:
                await self._wait_for_change()
            await self._feed()
            self.history = History(self.runtime.clock)
            self._set_overview(disconnected_overview(self.runtime.clock))
            self.caught_up.clear()

    async def wait_until_caught_up(self, seconds: float) -> None:
        """Wait until `caught_up` is set, while the broker is in reach, for at most `seconds`."""
        clock, stopping = self.runtime.clock, self.runtime.stopping
        deadline = clock.monotonic() + seconds
        while not self.caught_up.is_set() and self.runtime.bus.is_connected:
            stops = await wait_for_event(stopping, _CATCH_UP_POLL_SECONDS)
            if stops or clock.monotonic() > deadline:
                return

    async def _feed(self) -> None:
        """Follow the stream and the overview until no page is left, or the stream is replaced."""
        log.debug("following the stream: a page is open")
        self._stream_replaced = False
        async with asyncio.TaskGroup() as tasks:
            helpers = [
                tasks.create_task(self._follow_events()),
                tasks.create_task(self._follow_overview()),
            ]
            while not self._stream_replaced:
                try:
                    async with asyncio.timeout(None if self.viewers else LINGER_SECONDS):
                        await self._wait_for_change()
                except TimeoutError:
                    break
            for helper in helpers:
                helper.cancel()

    async def _wait_for_change(self) -> None:
        await self._changed.wait()
        self._changed.clear()

    async def _follow_events(self) -> None:
        first = await self._find_first_sequence()
        history = self.history
        events = follow_messages(self.runtime.bus, EVENTS_STREAM, EVENTS_SUBJECTS, first)
        async with aclosing(events):
            async for message in events:
                history.add(row_of(message))
                if not message.pending_count:
                    self.caught_up.set()
                if not history.count % _EVENTS_PER_TURN:
                    await asyncio.sleep(0)  # lets the pages take what is there

    async def _find_first_sequence(self) -> int:
        """Return the sequence to begin with, once the stream exists."""
        while (delivery := self.overview.delivery) is None:
            await asyncio.sleep(_STREAM_POLL_SECONDS)
        if not delivery.events:
            self.caught_up.set()
        return max(1, delivery.first_sequence, delivery.last_sequence - EVENTS_READ_MAX + 1)

    async def _follow_overview(self) -> None:
        while True:
            try:
                self._set_overview(await read_overview(self.runtime.bus, self.runtime.clock))
            except BusError as error:
                log.debug("%s", error)
                self._set_overview(disconnected_overview(self.runtime.clock))
            self._check_stream()
            await asyncio.sleep(OVERVIEW_SECONDS)

    def _set_overview(self, overview: Overview) -> None:
        self.rates = compute_rates(self.overview, overview)
        self.overview = overview

    def _check_stream(self) -> None:
        """Begin anew if the stream of events is another one than before."""
        delivery = self.overview.delivery
        created = delivery.created if delivery is not None else self._stream_created
        if self._stream_created and created != self._stream_created:
            self._stream_replaced = True
            self._changed.set()
        self._stream_created = created
