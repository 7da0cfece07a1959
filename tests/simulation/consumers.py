"""A durable pull consumer of the simulated broker: deliveries, acknowledgements, floors, requests.

It follows consumer.go of nats-server 2.15; `differential.py` compares it with the real one.
"""

from __future__ import annotations

import copy
import json
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from simulation.streams import Info, StoredMessage, Stream, header_bytes

from sematext_agent.shared.events import NS_PER_SECOND


@dataclass(slots=True)
class Pending:
    """A message that was delivered and is not acknowledged."""

    consumer_sequence: int
    """The number of its first delivery."""
    since: float
    """The time from which its ack deadline counts."""


@dataclass(slots=True)
class Request:
    """A request for messages that is open at the server."""

    reply: str
    messages_left: int
    bytes_left: int
    """0 for any number."""
    expires_at: float
    heartbeat_seconds: float
    active_at: float
    is_byte_limited: bool = False


@dataclass(slots=True)
class ConsumerState:
    """The part of a consumer that is stored, and that a crash puts back to an earlier one."""

    next_sequence: int = 1
    next_delivery: int = 1
    floor_stream: int = 0
    floor_consumer: int = 0
    pending: dict[int, Pending] = field(default_factory=dict)
    redelivered: dict[int, int] = field(default_factory=dict)

    def copy(self) -> ConsumerState:
        """Return a copy that shares nothing that changes."""
        pending = {seq: copy.copy(entry) for seq, entry in self.pending.items()}
        return ConsumerState(
            self.next_sequence,
            self.next_delivery,
            self.floor_stream,
            self.floor_consumer,
            pending,
            dict(self.redelivered),
        )


Send = Callable[[str, str, str, bytes, "dict[str, str] | None"], bool]
"""`send(to, subject, reply, data, headers)` returns whether anybody listens on `to`."""


class Consumer:
    """One durable consumer with explicit acknowledgements."""

    def __init__(self, stream: Stream, config: Info, send: Send, now: float) -> None:
        self.stream = stream
        self.config = config
        self.created_at = now
        start = config.get("opt_start_seq", 1)
        first = max(start, stream.first)
        self.state = ConsumerState(first, 1, first - 1, 0)
        self.is_changed = True
        """Whether the state differs from the one that was stored last."""
        self.requests: deque[Request] = deque()
        self._send = send
        self._redelivery: list[int] = []
        self.on_ack: Callable[[int, StoredMessage], None] = lambda sequence, message: None
        """Called with each message that was pending and is acknowledged."""

    @property
    def ack_wait(self) -> float:
        """Seconds of the ack deadline."""
        return float(self.config["ack_wait"]) / NS_PER_SECOND

    # Requests

    def request(self, reply: str, payload: bytes, now: float) -> None:
        """Take a request for messages."""
        wanted = json.loads(payload) if payload else {}
        expires = wanted.get("expires", 0) / NS_PER_SECOND
        self.requests.append(
            Request(
                reply,
                wanted.get("batch", 1),
                wanted.get("max_bytes", 0),
                now + expires if expires else float("inf"),
                wanted.get("idle_heartbeat", 0) / NS_PER_SECOND,
                now,
                wanted.get("max_bytes", 0) > 0,
            )
        )
        self.deliver(now)

    def end_requests(self, description: str) -> None:
        """End every open request, because the consumer is deleted."""
        for request in self.requests:
            self._status(request, "409", description, counts=False)
        self.requests.clear()

    def drop_requests(self, is_open: Callable[[str], bool]) -> None:
        """Forget requests to whose answers nobody listens any more."""
        self.requests = deque(r for r in self.requests if is_open(r.reply))

    def _status(self, request: Request, status: str, description: str, counts: bool = True) -> None:
        headers = {"Status": status, "Description": description}
        if counts:
            headers["Nats-Pending-Messages"] = str(request.messages_left)
            headers["Nats-Pending-Bytes"] = str(request.bytes_left)
        self._send(request.reply, request.reply, "", b"", headers)

    # Deliveries

    def deliver(self, now: float) -> None:
        """Hand out what may be handed out to the open requests, in turn."""
        self._end_expired(now)
        while self.requests:
            sequence = self._peek()
            if sequence is None:
                return
            request = self.requests.popleft()
            if not self._deliver_to(request, sequence, now):
                continue
            request.messages_left -= 1
            request.active_at = now
            if request.messages_left > 0:
                self.requests.append(request)
            elif request.bytes_left > 0:
                self._status(request, "409", "Batch Completed")

    def _peek(self) -> int | None:
        """Return the sequence that is next, and None where there is none."""
        while self._redelivery:
            if self._redelivery[0] in self.stream.messages:
                return self._redelivery[0]
            self._redelivery.pop(0)
        if len(self.state.pending) >= self.config["max_ack_pending"]:
            return None
        sequence = max(self.state.next_sequence, self.stream.first)
        return sequence if sequence <= self.stream.last else None

    def _deliver_to(self, request: Request, sequence: int, now: float) -> bool:
        """Deliver one message; return False where the request is over without it."""
        state, message = self.state, self.stream.messages[sequence]
        is_again = bool(self._redelivery)
        count = state.redelivered.get(sequence, 1) + 1 if is_again else 1
        following = state.next_sequence if is_again else sequence + 1
        waiting = self.stream.count_from(following)
        tokens = (count, sequence, state.next_delivery, message.time_ns, waiting)
        reply = f"$JS.ACK.{self.stream.name}.{self.config['name']}." + ".".join(map(str, tokens))
        size = len(message.subject) + len(reply) + header_bytes(message.headers) + len(message.data)
        if request.is_byte_limited and size > request.bytes_left:
            self._status(request, "409", "Message Size Exceeds MaxBytes")
            return False
        if not self._send(request.reply, message.subject, reply, message.data, message.headers):
            return False
        if request.is_byte_limited:
            request.bytes_left -= size
            if not request.bytes_left:
                request.messages_left = 1  # this one is the last
        if is_again:
            self._redelivery.pop(0)
            state.redelivered[sequence] = count
        state.next_sequence = following
        if (pending := state.pending.get(sequence)) is not None:
            pending.since = now
        else:
            state.pending[sequence] = Pending(state.next_delivery, now)
        state.next_delivery += 1
        self.is_changed = True
        return True

    # Responses of the clients

    def respond(self, sequence: int, payload: bytes, now: float) -> None:
        """Take an acknowledgement, a refusal or an extension of a delivered message."""
        pending = self.state.pending.get(sequence)
        if pending is None:
            return
        if payload in (b"", b"+ACK", b"+OK"):
            self._acknowledge(sequence, pending, now)
        elif payload.startswith(b"+WPI"):
            pending.since = now
        elif payload.startswith(b"-NAK"):
            delay = json.loads(payload[4:])["delay"] / NS_PER_SECOND if len(payload) > 4 else 0.0
            if delay:
                pending.since = now - self.ack_wait + delay
            elif sequence not in self._redelivery:
                self._redelivery.append(sequence)
                self.deliver(now)

    def _acknowledge(self, sequence: int, pending: Pending, now: float) -> None:
        state = self.state
        was_full = len(state.pending) >= self.config["max_ack_pending"]
        if (message := self.stream.messages.get(sequence)) is not None:
            self.on_ack(sequence, message)
        del state.pending[sequence]
        state.redelivered.pop(sequence, None)
        if sequence in self._redelivery:
            self._redelivery.remove(sequence)
        self.is_changed = True
        if not state.pending:
            state.floor_consumer = state.next_delivery - 1
            state.floor_stream = state.next_sequence - 1
        elif pending.consumer_sequence == state.floor_consumer + 1:
            self._raise_floor(sequence, pending.consumer_sequence)
        if was_full:
            self.deliver(now)

    def _raise_floor(self, sequence: int, consumer_sequence: int) -> None:
        state = self.state
        state.floor_consumer, state.floor_stream = consumer_sequence, sequence
        for following in range(sequence + 1, state.next_sequence):
            if (waiting := state.pending.get(following)) is not None:
                state.floor_consumer = waiting.consumer_sequence - 1
                state.floor_stream = following - 1
                return

    # Time

    @staticmethod
    def _heartbeat_at(request: Request) -> float:
        seconds = request.heartbeat_seconds
        return request.active_at + seconds if seconds else float("inf")

    def tick(self, now: float) -> None:
        """Do what time asks for: redeliveries, heartbeats, expiries."""
        limit = now - self.ack_wait
        pending = self.state.pending
        queued = frozenset(self._redelivery)
        overdue = [(p.since, s) for s, p in pending.items() if p.since <= limit]
        expired = [sequence for _, sequence in sorted(overdue) if sequence not in queued]
        for sequence in expired:
            pending[sequence].since = now
        self._redelivery += expired
        self.deliver(now)
        for request in self.requests:
            if self._heartbeat_at(request) <= now:
                request.active_at = now
                self._status(request, "100", "Idle Heartbeat", counts=False)

    def _end_expired(self, now: float) -> None:
        for request in list(self.requests):
            if request.expires_at <= now:
                self.requests.remove(request)
                self._status(request, "408", "Request Timeout")

    # The stream, the disk

    def on_purge(self, first: int) -> None:
        """Skip what a purge of the stream up to `first` has taken."""
        state = self.state
        state.next_sequence = max(state.next_sequence, first)
        if state.floor_stream < first - 1:
            state.floor_stream = first - 1
            for sequence in [s for s in state.pending if s < first]:
                purged = state.pending.pop(sequence)
                state.redelivered.pop(sequence, None)
                if purged.consumer_sequence > state.floor_consumer:
                    state.floor_consumer = purged.consumer_sequence
        if not state.pending:
            state.floor_consumer = state.next_delivery - 1
            state.floor_stream = state.next_sequence - 1
            state.redelivered.clear()
        elif (lowest := min(state.pending)) > state.floor_stream + 1:
            state.floor_consumer = state.pending[lowest].consumer_sequence - 1
            state.floor_stream = lowest - 1
        self._redelivery = [s for s in self._redelivery if s >= first]
        self.is_changed = True

    def reload(self, state: ConsumerState) -> None:
        """Begin another life of the server from a stored state."""
        self.state = state.copy()
        self.requests.clear()
        self._redelivery.clear()
        # The stream may be shorter than the consumer remembers.
        self.state.next_sequence = min(self.state.next_sequence, self.stream.last + 1)
        self.is_changed = True

    def info(self) -> Info:
        """Return the answer to CONSUMER.INFO."""
        state = self.state
        return {
            "stream_name": self.stream.name,
            "name": self.config["name"],
            "config": self.config,
            "delivered": {
                "consumer_seq": state.next_delivery - 1,
                "stream_seq": state.next_sequence - 1,
            },
            "ack_floor": {
                "consumer_seq": state.floor_consumer,
                "stream_seq": state.floor_stream,
            },
            "num_ack_pending": len(state.pending),
            "num_redelivered": len(state.redelivered),
            "num_waiting": len(self.requests),
            "num_pending": self.stream.count_from(state.next_sequence),
        }
