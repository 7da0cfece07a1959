"""From a delivered message to its acknowledgement, whatever the receiver says.

An event is acknowledged after the receiver's 2xx, or once it is safe as a dead letter; never
before. While it waits here the stream is told every few seconds that it is being worked on, so
nobody else gets it; and a copy of an event that is here or was delivered already is not sent.
"""

from __future__ import annotations

import asyncio
import logging
import sys
import time

import msgspec
from prometheus_client import Histogram

from forwarder.dead import bury, excerpt
from forwarder.enrich import encode, enrich
from forwarder.facts import Facts
from forwarder.flow import Flow
from forwarder.recent import RecentIds
from forwarder.settings import ForwarderSettings
from forwarder.streams import ACK_WAIT_SECONDS
from forwarder.transport import Answer, Transport
from forwarder.verdict import Verdict, in_words, judge
from shared.bus import Message, Puller
from shared.events import SECOND, decode, nanoseconds
from shared.health import Health
from shared.retry import Backoff
from shared.service import Runtime
from shared.subjects import EVENTS_STREAM

log = logging.getLogger(__name__)

HELD_EVENTS_MAX = 512
"""How many events may be here at once; the rest waits in the stream."""
QUIET_SECONDS = 1.0
"""So long no event may have come before a stop takes the stream for empty: what stops together with
the forwarder still tells of it."""
ATTEMPTS_MAX = 100
"""An event that failed so often while others were delivered is refused, in effect. At half a minute
between two attempts that is the better part of an hour; then it would keep the stream from being
trimmed, until that is full."""
_CONFIRM_SECONDS = 0.5
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)


class _Shipment:
    """One event on its way, and the copies of its message that wait for the same end."""

    __slots__ = ("copies", "document", "id", "is_posting", "since", "task", "time_ns")

    def __init__(self, message: Message, message_id: str) -> None:
        self.id = message_id
        self.copies = {message.sequence: message}
        self.document = b""
        self.time_ns = 0
        """When it happened."""
        self.since = time.monotonic()
        """When it came here."""
        self.is_posting = False
        self.task: asyncio.Task[None]

    @property
    def message(self) -> Message:
        """The message as it came first."""
        return next(iter(self.copies.values()))


class Shipper:
    """Takes messages, ships each event once, and acknowledges it."""

    def __init__(
        self,
        runtime: Runtime[ForwarderSettings],
        puller: Puller,
        facts: Facts,
        transport: Transport | None,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._bus = runtime.bus
        self._settings = runtime.settings
        self._puller = puller
        self._facts = facts
        self._transport = transport
        """None to run dry: documents are printed instead of sent."""
        self._tasks = tasks
        self._flow = Flow(runtime.health, runtime.settings.receiver)
        self._held: dict[str, _Shipment] = {}
        self._recent = RecentIds()
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._taken_at = 0.0
        self._count(runtime.health)

    def _count(self, health: Health) -> None:
        self._shipped = health.counter("events_shipped", "Events the receiver has taken.")
        self._retried = health.counter("posts_repeated", "Posts that were not the event's first.")
        self._refused = health.counter("events_refused", "Events made dead letters.", "reason")
        self._repeated = health.counter("events_repeated", "Copies not sent a second time.")
        self._latency = Histogram(
            "latency_seconds", "From an event at its source to the receiver's answer.", (),
            "agent", health.service, registry=health.registry, buckets=_LATENCY_SECONDS,
        )  # fmt: skip
        health.figure("held", "Events that are being shipped.", lambda: len(self._held))
        health.figure("in_flight", "Posts without an answer yet.", lambda: self._flow.in_flight)
        health.figure("concurrency", "Posts allowed at once.", lambda: int(self._flow.limit))
        health.figure("holding", "1 while nothing gets through.", lambda: not self._flow.is_open)
        health.figure(
            "oldest_unacknowledged_seconds", "Age here of the oldest event not shipped.", self.age
        )

    def age(self) -> float:
        """For how many seconds the oldest event has been here."""
        oldest = next(iter(self._held.values()), None)
        return time.monotonic() - oldest.since if oldest else 0.0

    async def take(self, message: Message) -> None:
        """Begins to ship what `message` holds; returns before that is done."""
        self._taken_at = self._loop.time()
        unreadable = ""
        try:
            event = decode(message.data)
            time_ns = nanoseconds(event.time)
            document = encode(enrich(event, self._facts.of(event.origin), self._settings.tags))
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            unreadable = f"cannot be decoded: {error}; it begins with {excerpt(message.data)}"
            shipment = _Shipment(message, f"{EVENTS_STREAM}:{message.sequence}")
        else:
            # Not the event's own id: a dead letter comes again under another, and is sent again.
            shipment = _Shipment(message, message.id or event.id)
            shipment.document, shipment.time_ns = document, time_ns
        if shipment.id in self._recent:
            self._repeated.inc()
            await self._bus.acknowledge(message)
        elif shipment.id in self._held:
            self._repeated.inc()
            self._held[shipment.id].copies[message.sequence] = message
        else:
            self._held[shipment.id] = shipment
            shipment.task = self._tasks.create_task(self._settle(shipment, unreadable))
        self._make_room()

    def _make_room(self) -> None:
        """Has no more come than there is room for, and never only a few at a time."""
        room = HELD_EVENTS_MAX - len(self._held)
        self._puller.resize(room if room >= HELD_EVENTS_MAX // 4 else 0)

    async def _settle(self, shipment: _Shipment, unreadable: str) -> None:
        """Ships one event, then tells the stream of it; also where it is cancelled meanwhile."""
        is_done = False
        try:
            if unreadable:
                await self._bury(shipment, 0, unreadable, "undecodable")
                is_done = True
            elif self._transport is None:
                is_done = self._print(shipment)
            else:
                is_done = await self._ship(shipment, self._transport)
        finally:
            del self._held[shipment.id]
            self._make_room()
            settle = self._bus.acknowledge if is_done else self._bus.give_back
            for copy in shipment.copies.values():
                await settle(copy)

    async def _ship(self, shipment: _Shipment, transport: Transport) -> bool:
        """Posts until the receiver has the event or will never take it; False where stopped."""
        backoff = Backoff(0.5, 30)
        was_refused = False
        while not self._is_stopping:
            answer = await self._post(shipment, transport)
            match judge(answer):
                case Verdict.DELIVERED:
                    self._on_delivered(shipment)
                    return True
                case Verdict.REFUSED if was_refused:
                    reason = str(answer.status)
                    await self._bury(shipment, answer.status, in_words(answer), reason)
                    return True
                case Verdict.REFUSED:
                    was_refused = True
                    await asyncio.sleep(_CONFIRM_SECONDS)
                case Verdict.RETRY:
                    if backoff.failures >= ATTEMPTS_MAX and self._flow.is_open:
                        words = f"failed {ATTEMPTS_MAX} times while others went through, "
                        words += in_words(answer)
                        await self._bury(shipment, answer.status, words, "attempts")
                        return True
                    await asyncio.sleep(backoff.next_seconds())
            self._retried.inc()
        return False

    async def _post(self, shipment: _Shipment, transport: Transport) -> Answer:
        await self._flow.enter()
        began = self._loop.time()
        shipment.is_posting = True
        try:
            answer = await transport.post(shipment.document)
        except asyncio.CancelledError:
            self._flow.abandon()
            raise
        finally:
            shipment.is_posting = False
        seconds = self._loop.time() - began
        self._flow.leave(judge(answer), answer, seconds)
        if self._settings.logging_request_tracking:
            log.info("event %s, %.0f ms: %s", shipment.id, seconds * 1000, in_words(answer))
        return answer

    def _on_delivered(self, shipment: _Shipment) -> None:
        self._recent.add(shipment.id)
        self._shipped.inc()
        self._latency.observe(max(0, time.time_ns() - shipment.time_ns) / SECOND)
        if self._settings.logging_write_events:
            self._print(shipment)

    def _print(self, shipment: _Shipment) -> bool:
        sys.stdout.write(self._settings.redact(shipment.document.decode()) + "\n")
        sys.stdout.flush()
        return True

    async def _bury(self, shipment: _Shipment, status: int, words: str, reason: str) -> None:
        await bury(self._bus, shipment.message, status, words)
        self._refused.labels(reason).inc()

    async def stay_in_progress(self) -> None:
        """Tells the stream, for ever, of all that is here for longer than a moment."""
        while True:
            await asyncio.sleep(ACK_WAIT_SECONDS / 3)
            newest = time.monotonic() - ACK_WAIT_SECONDS / 6
            for shipment in list(self._held.values()):
                if shipment.since < newest:
                    for copy in list(shipment.copies.values()):
                        await self._bus.in_progress(copy)

    async def drain(self, seconds: float) -> None:
        """Ships what still comes, until nothing does, for `seconds` at most."""
        now = begun = self._loop.time()
        while now < begun + seconds and self._flow.is_open:
            if not self._held and now > max(begun, self._taken_at) + QUIET_SECONDS:
                break
            await asyncio.sleep(0.02)
            now = self._loop.time()

    async def stop(self, seconds: float) -> None:
        """Ends: posts that are under way may take `seconds` more, the rest is given back."""
        self._is_stopping = True
        tasks = [shipment.task for shipment in self._held.values()]
        for shipment in self._held.values():
            if not shipment.is_posting:
                shipment.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=seconds)
            for task in late:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        # Tasks that were cancelled before they had begun could not give anything back.
        for shipment in self._held.values():
            for copy in shipment.copies.values():
                await self._bus.give_back(copy)
