"""A steady flow of messages from a durable consumer.

nats-py's `fetch` discards a message that has a header `Status:` as if the server had sent it, waits
on a request that a lost connection took along, and requests again without a pause when its consumer
does not exist. Here the server's own messages are known by their missing reply subject, silence is
noticed by the server's heartbeats, and a refusal is followed by a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import NamedTuple

import msgspec
import nats.errors

from sematext_agent.shared.bus.client import Msg
from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

REQUEST_SECONDS = 30
"""How long the server keeps a request for messages open."""
HEARTBEAT_SECONDS = 2
"""Interval at which the server sends heartbeats on an open request."""
REDELIVERY_SECONDS = 60
"""A message stored up to this long after a disturbance may have been delivered to another puller
before: the margin is for disturbances that this puller notices first."""

_REGULAR_ENDS = ("Batch Completed", "Message Size Exceeds MaxBytes")
"""Ends of a request under status 409 that refuse nothing, as 408 does where its time has passed.
nats-server 2.15 completes every request that has a limit of bytes with the first of them."""


def api_prefix(domain: str) -> str:
    """Return the subject prefix of JetStream's API: the broker's own, or that of a leaf node."""
    return f"$JS.{domain}.API" if domain else "$JS.API"


class Message(msgspec.Struct, frozen=True):
    """One message of a stream, as it was delivered to a puller."""

    subject: str
    data: bytes
    headers: dict[str, str]
    sequence: int
    """Its number in the stream."""
    delivery_count: int
    """Number of its deliveries, this one included."""
    pending_count: int
    """Number of messages that the consumer has still to deliver."""
    time_ns: int
    """Time at which the stream stored it."""
    reply: str
    received_at: float = 0.0
    """Seconds of the loop's clock at which it arrived."""

    @property
    def id(self) -> str:
        """The id it was published with, or an empty text."""
        return self.headers.get("Nats-Msg-Id", "")


class _Limits(NamedTuple):
    """The limits of a request for messages."""

    messages_max: int
    bytes_max: int = 0
    """0 for any number."""


class Puller:
    """A steady flow of messages from a durable consumer: `async for message in puller`.

    It keeps one request open at the server, for up to `window` messages, and makes the next when
    all of them have arrived: for a request that ended so, the server does not say how many bytes
    it had left. Iteration ends after `stop`, when the buffered messages have been taken.
    """

    def __init__(
        self, connection: Connection, stream: str, consumer: str, window: int, domain: str = ""
    ) -> None:
        """Pull up to `window` messages ahead; `domain` names the JetStream of a leaf node."""
        self._connection = connection
        self._request_subject = f"{api_prefix(domain)}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._inbox = connection.client.new_inbox()
        self._limits = _Limits(window)
        self._outstanding = 0  # messages requested and not yet arrived
        # An asyncio.Queue costs a dozen calls for each message.
        self._buffer: deque[Message] = deque()
        self._wakeup = asyncio.Event()  # for the iteration: a message is here, or none will be
        self._renewal = asyncio.Event()
        self._last_arrival_seconds = 0.0  # by the loop's clock
        self.disturbed_at = 0.0
        """Seconds of the loop's clock at the start, or when a request had to be renewed last."""
        self._is_refused = self._is_stopped = False
        self._backoff = Backoff(0.1, 5, connection.uniform)
        self.consumer_missing = asyncio.Event()
        """Set while the server answers that the consumer or its stream does not exist."""

    async def __aiter__(self) -> AsyncIterator[Message]:
        """Yield messages until `stop`."""
        client = self._connection.client
        subscription = await client.subscribe(self._inbox, cb=self._on_message)
        keeper = asyncio.create_task(self._keep_requesting(), name=f"pull {self._consumer_name}")
        self._connection.reconnect_callbacks.append(self.renew_request)
        try:
            while self._buffer or not self._is_stopped:
                if self._buffer:
                    yield self._buffer.popleft()
                    if not self._outstanding:
                        await self._request()
                else:
                    self._wakeup.clear()
                    await self._wakeup.wait()
        finally:
            self._connection.reconnect_callbacks.remove(self.renew_request)
            keeper.cancel()
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def stop(self) -> None:
        """Request no more; buffered messages are still handed out, then the iteration ends."""
        self._is_stopped = True
        self._wakeup.set()

    def resize(self, window: int, bytes_max: int = 0) -> None:
        """Change how many messages are requested ahead, and how many bytes they may have."""
        self._limits = _Limits(window, bytes_max)
        if window and not self._outstanding:
            self._renewal.set()

    def expects_redelivery(self, age_seconds: float = 0.0) -> bool:
        """Return whether a message stored `age_seconds` ago may have been delivered before.

        That is so for whatever was stored until a minute after the start, or after a request that
        had to be renewed. A server that leads the consumer from then on may not know what the one
        before it delivered last, and deliver that again, to anyone, as if it were the first time.
        It may take long until a backlog is through, so the age of a message counts.
        """
        disturbed_seconds_ago = asyncio.get_running_loop().time() - self.disturbed_at
        return disturbed_seconds_ago < REDELIVERY_SECONDS + max(0.0, age_seconds)

    def expect_redelivery(self) -> None:
        """Count what is stored until a minute from now as perhaps delivered before."""
        self.disturbed_at = asyncio.get_running_loop().time()

    def renew_request(self) -> None:
        """Forget the request, because its messages are not coming, and make a new one."""
        self.expect_redelivery()
        self._outstanding = 0
        self._renewal.set()

    @property
    def buffered(self) -> Sequence[Message]:
        """Return the messages that have arrived and were not handed out yet."""
        return self._buffer

    @property
    def _consumer_name(self) -> str:
        return self._request_subject.partition(".NEXT.")[2]

    async def _request(self) -> None:
        # Buffered messages still count towards the limits.
        client = self._connection.client
        if self._is_stopped or self._outstanding or self._buffer or not client.is_connected:
            return
        self._outstanding = self._limits.messages_max
        if not self._outstanding:
            return
        # Without an open request nothing shows that another server leads the consumer by now. An
        # election takes 4 s at least.
        if asyncio.get_running_loop().time() - self._last_arrival_seconds > 2 * HEARTBEAT_SECONDS:
            self.expect_redelivery()
        request = {
            "batch": self._outstanding,
            "expires": REQUEST_SECONDS * NS_PER_SECOND,
            "idle_heartbeat": int(HEARTBEAT_SECONDS * NS_PER_SECOND),
            "max_bytes": self._limits.bytes_max,
        }
        with contextlib.suppress(nats.errors.Error):
            await client.publish(
                self._request_subject, msgspec.json.encode(request), reply=self._inbox
            )

    async def _keep_requesting(self) -> None:
        """Request at first, when a request has ended, and after three heartbeats of silence."""
        clock = asyncio.get_running_loop().time
        self.expect_redelivery()
        while not self._is_stopped:
            if clock() - self._last_arrival_seconds > 3 * HEARTBEAT_SECONDS:
                self.expect_redelivery()
                self._outstanding, self._last_arrival_seconds = 0, clock()
            await self._request()
            self._renewal.clear()
            await wait_for_event(self._renewal, HEARTBEAT_SECONDS)
            if self._is_refused:
                self._is_refused = False
                await asyncio.sleep(self._backoff.draw_delay_seconds())

    async def _on_message(self, message: Msg) -> None:
        self._last_arrival_seconds = asyncio.get_running_loop().time()
        if not message.reply:
            self._on_control(message.headers or {})
            return
        self._outstanding = max(0, self._outstanding - 1)
        self.consumer_missing.clear()
        self._backoff.reset()
        decoded = _decode_delivery(message, self._last_arrival_seconds)
        if self._is_stopped:
            # Nobody takes it any more: back to the stream, for the next puller.
            with contextlib.suppress(nats.errors.Error):
                await self._connection.client.publish(message.reply, b"-NAK")
        elif decoded is not None:
            self._buffer.append(decoded)
            self._wakeup.set()

    def _on_control(self, headers: dict[str, str]) -> None:
        """Take the server's answer to a request, by its status."""
        status = headers.get("Status", "")
        description = headers.get("Description", "")
        if status == "100":
            return
        if status == "503" or "Consumer Deleted" in description:
            if not self.consumer_missing.is_set():
                log.warning(
                    "no messages: the consumer %s does not exist (its owner creates it)",
                    self._consumer_name,
                )
            self.consumer_missing.set()
        # After anything but its regular end the next request waits, or two hosts would talk in a
        # loop.
        self._is_refused = status != "408" and not description.endswith(_REGULAR_ENDS)
        if self._is_refused:
            self.expect_redelivery()
        # The rest of an ended request is not coming. Where the server does not say how much that
        # was, all of it is requested anew.
        unsent = headers.get("Nats-Pending-Messages", "")
        self._outstanding = max(0, self._outstanding - int(unsent)) if unsent.isdecimal() else 0
        self._renewal.set()


def _decode_delivery(message: Msg, received_at: float = 0.0) -> Message | None:
    """Return a delivered message with the numbers that stand in its reply subject.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the
    same with `<domain>.<account>` before the stream and a random token at the end.
    """
    tokens = message.reply.split(".")
    tokens = tokens[4:] if len(tokens) > 9 else tokens[2:]
    try:
        delivery_count, sequence, _, time_ns, pending_count = map(int, tokens[2:7])
    except ValueError:
        log.warning("skipped a message: its reply subject %r is not JetStream's", message.reply)
        return None
    return Message(
        subject=message.subject,
        data=message.data,
        headers=message.headers or {},
        sequence=sequence,
        delivery_count=delivery_count,
        pending_count=pending_count,
        time_ns=time_ns,
        reply=message.reply,
        received_at=received_at,
    )
