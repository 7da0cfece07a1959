"""From a delivered message to its acknowledgement, whatever the receiver says.

An event is acknowledged after the receiver's 2xx, or once it is safe as a dead letter; never
before. While it waits here the stream is told every few seconds that it is being worked on, so
nobody else gets it; and a copy of an event that is here or was delivered already is not sent.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial

import msgspec

from sematext_agent.forwarder.consumers import ACK_WAIT_SECONDS
from sematext_agent.forwarder.dead import bury, excerpt
from sematext_agent.forwarder.enrich import encode, enrich
from sematext_agent.forwarder.facts import Facts
from sematext_agent.forwarder.flow import Flow
from sematext_agent.forwarder.latency import Latency
from sematext_agent.forwarder.peers import Known, Peers
from sematext_agent.forwarder.recent import RecentIds
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.transport import Answer, Transport
from sematext_agent.forwarder.verdict import Verdict, in_words, judge
from sematext_agent.shared.bus import BusError, Message, Puller
from sematext_agent.shared.events import NS_PER_SECOND, NewerEventError, decode, parse_rfc3339
from sematext_agent.shared.health import METRICS_PREFIX, Health
from sematext_agent.shared.logs import escape_json
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, consumer_name

log = logging.getLogger(__name__)

HELD_EVENTS_MAX = 512
"""How many events may be here at once; the rest waits in the stream."""
HELD_BYTES_MAX = 16 * 1024 * 1024
"""How many bytes their messages and documents may have together."""
LEASE_SECONDS = ACK_WAIT_SECONDS * 2 / 3
"""So long after its last word on them the stream has certainly given no event here to another."""
QUIET_SECONDS = 1.0
"""So long no event may have come before a stop takes the stream for empty: what stops together with
the forwarder still tells of it."""
ATTEMPTS_MAX = 100
"""An event that failed so often while others were delivered is refused, in effect. At half a minute
between two attempts that is the better part of an hour; then it would keep the stream from being
trimmed, until that is full."""
_CONFIRM_SECONDS = 0.5
_UPGRADE = "upgrade this forwarder, then `agentctl dead replay` sends it"


class _Shipment:
    """One event on its way, and the copies of its message that wait for the same end."""

    __slots__ = (
        "backoff",
        "began",
        "bytes",
        "copies",
        "document",
        "id",
        "since",
        "term",
        "time_ns",
        "was_refused",
    )

    def __init__(
        self, message: Message, message_id: str, document: bytes, time_ns: int, term: int
    ) -> None:
        self.id = message_id
        self.bytes = len(message.data) + len(document)
        self.term = term
        """Of the shipper, when it came here: see `Shipper._is_late`."""
        self.copies = {message.sequence: message}
        self.document = document
        self.time_ns = time_ns
        """When it happened."""
        self.since = time.monotonic()
        """When it came here."""
        self.began = 0.0
        """When its last POST did."""
        self.backoff: Backoff | None = None
        self.was_refused = False


class Shipper:
    """Takes messages, ships each event once, and acknowledges it.

    An event is in one of four places: `_ready` to be posted, in flight, waiting for a timer to be
    ready again, or being made a dead letter; `_held` has all of them. Answers come by callback into
    `_answers` and are worked off by the one task `work`, so that ten thousand events a second have
    no task each, and so that a fault ends the process instead of one event's callback.
    """

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
        self._health = runtime.health
        self._pullers = [puller]
        """Which share the room that is here."""
        self._facts = facts
        self._transport = transport
        """None to run dry: documents are printed instead of sent."""
        self._tasks = tasks
        self._flow = Flow(runtime.health, runtime.settings.receiver, self._post_ready)
        self._held: dict[str, _Shipment] = {}
        self._held_bytes = 0
        self._ready: deque[_Shipment] = deque()
        self._answers: deque[tuple[_Shipment, Answer]] = deque()
        self._settled: deque[Message] = deque()
        """Messages whose acknowledgement is due."""
        self._doubtful: dict[str, Message] = {}
        """By id: what another forwarder may have shipped, until it has been asked."""
        self._has_doubts = asyncio.Event()
        self._peers = Peers(runtime.bus, runtime.settings.nats_domain, self._know)
        self._has_work = asyncio.Event()
        self._burials: set[asyncio.Task[None]] = set()
        self._recent = RecentIds()
        self._delivered = 0  # and not counted yet
        self._is_stopping = False
        self._loop = asyncio.get_running_loop()
        self._taken_at = 0.0
        self._spoke_at = self._loop.time()
        """When the stream was last told what is here, and has heard it."""
        self._term = 0
        self._count(runtime.health)
        self._make_room()

    def _count(self, health: Health) -> None:
        self._shipped = health.add_counter("events_shipped", "Events the receiver has taken.")
        self._retried = health.add_counter(
            "posts_repeated", "Posts that were not the event's first."
        )
        self._refused = health.add_counter("events_refused", "Events made dead letters.", "reason")
        self._repeated = health.add_counter("events_repeated", "Copies not sent a second time.")
        self._latency = Latency(
            f"{METRICS_PREFIX}delivery_latency_seconds",
            "From an event at its source to the receiver's answer.",
        )
        health.registry.register(self._latency)
        health.add_figure("events_held", "Events that are being shipped.", lambda: len(self._held))
        health.add_figure(
            "posts_in_flight", "Posts without an answer yet.", lambda: self._flow.in_flight
        )
        health.add_figure(
            "posts_in_flight_limit", "Posts allowed at once.", lambda: int(self._flow.limit)
        )
        self._let_go = health.add_counter("events_let_go", "Events left to the stream unshipped.")
        health.add_figure("events_held_bytes", "Bytes of those events.", lambda: self._held_bytes)
        health.add_figure(
            "holding", "1 while nothing gets through.", lambda: not self._flow.is_open
        )
        health.add_figure(
            "oldest_unacknowledged_seconds", "Age here of the oldest event not shipped.", self.age
        )

    def age(self) -> float:
        """For how many seconds the oldest event has been here."""
        oldest = next(iter(self._held.values()), None)
        return time.monotonic() - oldest.since if oldest else 0.0

    @contextlib.contextmanager
    def sharing_room(self, puller: Puller) -> Iterator[None]:
        """Has another puller share the room that is here with those there are."""
        self._pullers.append(puller)
        self._make_room()
        try:
            yield
        finally:
            self._pullers.remove(puller)
            self._make_room()

    def take(self, message: Message, puller: Puller) -> None:
        """Begins to ship what `message` holds, unless another forwarder has shipped it."""
        if self._is_late():  # it was sent before a freeze of this process, for all that is known
            self._let_go.inc()
            return
        self._taken_at = self._loop.time()
        is_known = message.id in self._recent or message.id in self._held
        if (
            message.id
            and not is_known
            and (message.delivery_count > 1 or puller.expects_redelivery)
        ):
            self._doubtful[message.id] = message
            self._has_doubts.set()
            self._make_room()
        else:
            self._ship(message)

    async def meet_others(self) -> None:
        """Finds the other forwarders, which are asked from then on; before the first event."""
        await self._peers.meet()

    async def settle_doubts(self) -> None:
        """Asks the other forwarders about every copy that may be a second one, for ever."""
        while True:
            await self._has_doubts.wait()
            self._has_doubts.clear()
            asked = list(self._doubtful)
            known = await self._peers.ask(asked)
            for message_id in asked:
                message = self._doubtful.pop(message_id)
                if message_id in known.shipped:
                    self._repeated.inc()
                    self._acknowledge(message)
                elif message_id not in known.held:
                    self._ship(message)
                # Held elsewhere, it is acknowledged there, or else comes again.
            self._make_room()

    def _know(self, ids: Iterable[str], is_first: bool) -> Known:
        """What this forwarder has shipped and what it holds, and its doubts where it is first."""
        ids = frozenset(ids)
        held = ids & self._held.keys() | (ids & self._doubtful.keys() if is_first else set())
        return Known(shipped=frozenset(filter(self._recent.__contains__, ids)), held=held)

    def _ship(self, message: Message) -> None:
        try:
            event = decode(message.data)
            time_ns = parse_rfc3339(event.time)
            document = encode(enrich(event, self._facts.of(event.origin), self._settings.tags))
        except NewerEventError as error:
            self._take_unreadable(message, "newer", f"{error}: {_UPGRADE}")
            return
        except (msgspec.DecodeError, ValueError, OverflowError) as error:
            words = f"cannot be decoded: {error}; it begins with {excerpt(message.data)}"
            self._take_unreadable(message, "undecodable", words)
            return
        # Not the event's own id: a dead letter comes again under another, and is sent again.
        message_id = message.id or event.id
        if message_id in self._recent:
            self._repeated.inc()
            self._acknowledge(message)
        elif (held := self._held.get(message_id)) is not None:
            self._repeated.inc()
            held.copies[message.sequence] = message
        else:
            shipment = _Shipment(message, message_id, document, time_ns, self._term)
            self._hold(shipment)
            self._make_ready(shipment)

    def _take_unreadable(self, message: Message, reason: str, words: str) -> None:
        shipment = _Shipment(message, f"{EVENTS_STREAM}:{message.sequence}", b"", 0, self._term)
        if shipment.id not in self._held:
            self._hold(shipment)
            self._bury(shipment, 0, words, reason)

    def _is_late(self) -> bool:
        """Whether the stream may have given what is here to another forwarder meanwhile: this
        process was frozen, or the broker does not hear it. To ship it now could tell it twice."""
        return self._loop.time() - self._spoke_at > LEASE_SECONDS

    def _hold(self, shipment: _Shipment) -> None:
        self._held[shipment.id] = shipment
        self._held_bytes += shipment.bytes
        self._make_room()

    def _release(self, shipment: _Shipment) -> None:
        del self._held[shipment.id]
        self._held_bytes -= shipment.bytes
        self._make_room()

    def _make_room(self) -> None:
        """Has no more come than there is room for, and never only a few at a time."""
        room = HELD_EVENTS_MAX - len(self._held) - len(self._doubtful)
        room_bytes = HELD_BYTES_MAX - self._held_bytes
        is_worth_it = room >= HELD_EVENTS_MAX // 4 and room_bytes >= HELD_BYTES_MAX // 4
        many = len(self._pullers)
        for puller in self._pullers:
            # Of the bytes half are for the messages, as much again for their documents.
            puller.resize(room // many if is_worth_it else 0, room_bytes // 2 // many)

    def _make_ready(self, shipment: _Shipment) -> None:
        self._ready.append(shipment)
        self._post_ready()

    def _post_ready(self) -> None:
        """Posts what is ready, as far as there is room for it."""
        while self._ready and not self._is_stopping and self._flow.has_room():
            shipment = self._ready.popleft()
            if shipment.term != self._term or self._is_late():
                self._let_go.inc()
                self._release(shipment)  # and the stream delivers it again
                continue
            if self._transport is None:
                self._print(shipment)
                self._finish(shipment)
                continue
            self._flow.enter()
            shipment.began = self._loop.time()
            self._transport.post(shipment.document, partial(self._answered, shipment))

    def _answered(self, shipment: _Shipment, answer: Answer) -> None:
        self._answers.append((shipment, answer))
        self._has_work.set()

    async def work(self) -> None:
        """Acts on every answer, and tells the stream of every event that is done with; for ever."""
        while True:
            await self._has_work.wait()
            self._has_work.clear()
            while self._answers:
                self._on_answer(*self._answers.popleft())
            self._shipped.inc(self._delivered)
            self._delivered = 0
            while self._settled:
                await self._bus.acknowledge(self._settled.popleft())

    def _on_answer(self, shipment: _Shipment, answer: Answer) -> None:
        verdict = judge(answer)
        seconds = self._loop.time() - shipment.began
        self._flow.leave(verdict, answer, seconds)
        if self._settings.logging_request_tracking:
            log.info("event %s, %.0f ms: %s", shipment.id, seconds * 1000, in_words(answer))
        match verdict:
            case Verdict.DELIVERED:
                self._on_delivered(shipment)
            case Verdict.REFUSED if shipment.was_refused:
                self._bury(shipment, answer.status, in_words(answer), str(answer.status))
            case Verdict.REFUSED:
                shipment.was_refused = True
                self._repeat(shipment, _CONFIRM_SECONDS)
            case Verdict.RETRY:
                self._on_failed(shipment, answer)
            case Verdict.HOLD:
                self._repeat(shipment, 0)
        self._post_ready()

    def _on_delivered(self, shipment: _Shipment) -> None:
        self._recent.add(shipment.id)
        self._delivered += 1
        self._latency.observe(max(0, time.time_ns() - shipment.time_ns) / NS_PER_SECOND)
        if self._settings.logging_write_events:
            self._print(shipment)
        self._finish(shipment)

    def _on_failed(self, shipment: _Shipment, answer: Answer) -> None:
        backoff = shipment.backoff = shipment.backoff or Backoff(0.5, 30)
        if backoff.failures >= ATTEMPTS_MAX and self._flow.is_open:
            words = f"failed {backoff.failures} times while others went through"
            self._bury(shipment, answer.status, f"{words}, {in_words(answer)}", "attempts")
        else:
            self._repeat(shipment, backoff.draw_delay_seconds())

    def _repeat(self, shipment: _Shipment, seconds: float) -> None:
        self._retried.inc()
        self._loop.call_later(seconds, self._make_ready, shipment)

    def _bury(self, shipment: _Shipment, status: int, words: str, reason: str) -> None:
        burial = self._make_dead_letter(shipment, status, words, reason)
        task = self._tasks.create_task(burial)
        self._burials.add(task)
        task.add_done_callback(self._burials.discard)

    async def _make_dead_letter(
        self, shipment: _Shipment, status: int, words: str, reason: str
    ) -> None:
        message = next(iter(shipment.copies.values()))
        await bury(self._bus, message, status, words)
        self._refused.labels(reason).inc()
        self._health.record_error(
            f"made event {shipment.id} on {message.subject} a dead letter: {words}"
        )
        self._finish(shipment)

    def _print(self, shipment: _Shipment) -> None:
        document = self._settings.redact(shipment.document.decode())
        sys.stdout.write(escape_json(document) + "\n")
        sys.stdout.flush()

    def _finish(self, shipment: _Shipment) -> None:
        self._release(shipment)
        for copy in shipment.copies.values():
            self._acknowledge(copy)

    def _acknowledge(self, message: Message) -> None:
        self._settled.append(message)
        self._has_work.set()

    async def stay_in_progress(self) -> None:
        """Tells the stream, for ever, of all that is here for longer than a moment."""
        domain = self._settings.nats_domain
        consumer = consumer_name(FORWARDER_CONSUMER, domain)
        while True:
            await asyncio.sleep(ACK_WAIT_SECONDS / 3)
            if self._is_late():
                log.warning("frozen or cut off for long: what is here is left to the stream")
                self._term += 1
            speaking_at = self._loop.time()
            newest = time.monotonic() - ACK_WAIT_SECONDS / 6
            for shipment in list(self._held.values()):
                if shipment.since < newest and shipment.term == self._term:
                    for copy in list(shipment.copies.values()):
                        await self._bus.extend_ack_deadline(copy)
            with contextlib.suppress(BusError):
                # Its answer comes after all that the broker had sent before.
                await self._bus.request_api(
                    f"CONSUMER.INFO.{EVENTS_STREAM}.{consumer}", domain=domain
                )
                self._spoke_at = speaking_at
                self._post_ready()

    async def drain(self, seconds: float) -> None:
        """Ships what still comes, until nothing does, for `seconds` at most.

        Without a broker nothing more is shipped: nobody could be told, and the next start would
        ship it once more.
        """
        now = begun = self._loop.time()
        while now < begun + seconds and self._flow.is_open and self._bus.is_connected:
            is_empty = not (self._held or self._doubtful)
            if is_empty and now > max(begun, self._taken_at) + QUIET_SECONDS:
                break
            await asyncio.sleep(0.02)
            now = self._loop.time()

    async def stop(self, seconds: float) -> None:
        """Ends: posts that are under way may take `seconds` more, the rest is given back."""
        self._is_stopping = True
        self._flow.stop()
        end = self._loop.time() + seconds
        while (self._flow.in_flight or self._settled) and self._loop.time() < end:
            await asyncio.sleep(0.01)
        for task in self._burials:
            task.cancel()
        for message in self._doubtful.values():
            await self._bus.negative_acknowledge(message)
        for shipment in list(self._held.values()):
            for copy in shipment.copies.values():
                await self._bus.negative_acknowledge(copy)
