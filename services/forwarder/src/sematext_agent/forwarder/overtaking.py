"""New events overtake a backlog.

After an outage a million events may wait, and the durable consumer delivers them in their order. So
that what happens now is told now, a second consumer is made that begins behind the last of them,
and events are taken from both, as many from one as from the other. The first still delivers
everything in the end: what the second has told, it passes over. So nothing depends on the second,
and whatever becomes of it nothing is lost. It is removed when the first has come as far.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections.abc import AsyncIterator
from typing import Any

from sematext_agent.forwarder.consumers import consumer_config
from sematext_agent.shared.bus import Bus, BusError, JetStreamError, Message, Puller
from sematext_agent.shared.health import Health
from sematext_agent.shared.stream_reader import find_info
from sematext_agent.shared.subjects import EVENTS_STREAM, OVERTAKING_CONSUMER, consumer_name

log = logging.getLogger(__name__)

BEHIND_EVENTS = 20_000
"""So many events behind, some five seconds of work, new ones no longer wait for their turn."""
NEAR_EVENTS = 1000
"""So close behind the second consumer the first takes over again."""
STEADY_LOOKS = 3
"""So many times in a row events must have been shipped before new ones overtake: what was made
while the receiver is still away would soon have a backlog of its own."""
NOTICE_SECONDS = 8.0
"""How long every forwarder has to notice the second consumer before anything comes of it. An idle
one looks every 10 s, but then nothing came 10 s ago, and it has been steady for 4."""
HANDOVER_SECONDS = 0.2
"""How soon what the second consumer may still tell is asked for again."""
_NEVER = sys.maxsize


class Overtaking:
    """The second consumer, as far as this forwarder knows it; `look` again and again.

    All forwarders on the same stream share it as they share the first one.
    """

    def __init__(self, bus: Bus, domain: str, puller: Puller, health: Health) -> None:
        self._bus = bus
        self._domain = domain
        self._main = puller
        self._health = health
        self._name = consumer_name(OVERTAKING_CONSUMER, domain)
        self.info: dict[str, Any] | None = None
        """What JetStream said of it last; None where there is none."""
        self._floor = -1  # of the first consumer: all up to there is done with
        self._steady = 0
        self._known_since = 0.0
        self._puller: Puller | None = None
        self._is_stopped = False
        self._began = asyncio.Event()
        self._first = _NEVER
        self._told = 0

    @property
    def is_near_its_end(self) -> bool:
        """Whether the first consumer is about to take over, so that `look` is due soon."""
        return self._first != _NEVER and self._told - self._floor <= NEAR_EVENTS

    async def passes_over(self, message: Message) -> bool:
        """Whether `message`, from the first consumer, is the second one's; it is answered then."""
        if message.sequence < self._first:
            return False
        if message.sequence <= self._told:
            await self._bus.acknowledge(message)
        else:
            await self._bus.negative_acknowledge(message, HANDOVER_SECONDS)
        return True

    async def pullers(self) -> AsyncIterator[Puller]:
        """A puller of the second consumer whenever it begins, for ever."""
        while True:
            await self._began.wait()
            self._began.clear()
            if self._puller is not None:
                yield self._puller

    def stop(self) -> None:
        """Takes no more from the second consumer."""
        self._is_stopped = True
        if self._puller is not None:
            self._puller.stop()

    async def learn(self) -> None:
        """Finds out whether there is a second consumer; before the first event is taken."""
        try:
            self._know(await self._info())
        except BusError as error:
            self._health.record_error(f"new events wait behind a backlog: {error}")

    async def look(self, stream: dict[str, Any], consumer: dict[str, Any]) -> None:
        """Begins it, follows it or ends it, by what JetStream says of the stream and of the first
        consumer."""
        floor = consumer["ack_floor"]["stream_seq"]
        self._steady = self._steady + 1 if 0 <= self._floor < floor else 0
        self._floor = floor
        state = stream["state"]
        try:
            # Beside ours it counts those of taps: one request more while somebody looks on.
            self._know(await self._info() if state["consumer_count"] > 1 else None)
            if self._first == _NEVER:
                if consumer["num_pending"] > BEHIND_EVENTS and self._steady >= STEADY_LOOKS:
                    await self._make(state["last_seq"] + 1)
            elif self.is_near_its_end:
                if self._is_stopped and floor >= self._told:
                    await self._bus.request_api(self._call("DELETE"), domain=self._domain)
                    self._know(None)
                else:
                    self.stop()
            elif not self._puller and time.monotonic() > self._known_since + NOTICE_SECONDS:
                self._puller = self._bus.create_puller(EVENTS_STREAM, self._name, 0, self._domain)
                self._began.set()
        except BusError as error:
            log.debug("%s: %s", self._name, error)
            self._steady = -STEADY_LOOKS

    def _call(self, verb: str) -> str:
        return f"CONSUMER.{verb}.{EVENTS_STREAM}.{self._name}"

    async def _info(self) -> dict[str, Any] | None:
        return await find_info(self._bus, self._call("INFO"), domain=self._domain)

    async def _make(self, first: int) -> None:
        request = {
            "stream_name": EVENTS_STREAM,
            "config": consumer_config(first, self._name),
            "action": "create",  # where another forwarder was first, its beginning counts
        }
        with contextlib.suppress(JetStreamError):
            await self._bus.request_api(self._call("CREATE"), request, self._domain)
            log.info("new events overtake the backlog, from sequence %d on", first)

    def _know(self, info: dict[str, Any] | None) -> None:
        self.info = info
        if info is not None:
            if self._first == _NEVER:
                self._known_since = time.monotonic()
            self._first = info["config"]["opt_start_seq"]
            self._told = max(self._first - 1, info["ack_floor"]["stream_seq"])
        elif self._first != _NEVER:
            log.info("the backlog is shipped up to what has overtaken it")
            self.stop()
            self._puller, self._is_stopped = None, False
            self._first, self._told = _NEVER, 0
            # What another forwarder had from the second consumer may come again from the first.
            self._main.expect_redelivery()
