"""A steady flow of messages from a durable consumer.

nats-py's `fetch` discards a message that has a header `Status:` as if the server had sent it, waits
on a request that a lost connection took along, and asks again without a pause when its consumer is
gone. Here the server's own messages are known by their missing reply subject, silence is noticed by
the server's heartbeats, and a refusal is followed by a pause.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from collections.abc import AsyncIterator

import msgspec
import nats.errors

from sematext_agent.shared.bus.client import Client, Msg
from sematext_agent.shared.retry import Backoff

log = logging.getLogger(__name__)

PULL_SECONDS = 30
"""How long the server keeps one request for messages open."""
HEARTBEAT_SECONDS = 2
"""How often the server says, on an open request, that it is still there."""
DISTURBED_SECONDS = 60
"""So long after a disturbance what comes may have been delivered to another puller before."""


def api_prefix(domain: str) -> str:
    """Where the JetStream of a domain is asked: the broker's own, or a leaf node's by name."""
    return f"$JS.{domain}.API" if domain else "$JS.API"


class Message(msgspec.Struct, frozen=True):
    """One message of a stream, as it was delivered to a puller."""

    subject: str
    data: bytes
    headers: dict[str, str]
    sequence: int
    """Its number in the stream."""
    delivery_count: int
    """How often it has been delivered, this time included."""
    pending_count: int
    """How many more the consumer still has to deliver."""
    time_ns: int
    """When the stream stored it."""
    reply: str

    @property
    def id(self) -> str:
        """The id it was published with, or nothing."""
        return self.headers.get("Nats-Msg-Id", "")


class Puller:
    """A steady flow of messages from a durable consumer: `async for message in puller`.

    It keeps one request open at the server, for up to `window` messages, and makes the next when
    all of them have come: of a request that ended so, the server does not say how many bytes it
    had left. Iteration ends after `stop`, when the messages already here have been taken.
    """

    def __init__(
        self, client: Client, stream: str, consumer: str, window: int, domain: str = ""
    ) -> None:
        self._client = client
        self._request_subject = f"{api_prefix(domain)}.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._inbox = client.new_inbox()
        self._window = window
        self._bytes_max = 0  # of the next request; 0 for any number
        self._wanted = 0  # asked for and not yet here
        # Not an asyncio.Queue, whose get and put are a dozen calls for every message.
        self._here: deque[Message] = deque()
        self._stirred = asyncio.Event()  # something is here, or nothing more will be
        self._last_sign = 0.0
        self._disturbed_at = 0.0
        self._renewal = asyncio.Event()
        self._refused = False  # the last request, by the server
        self._stopped = False
        self._backoff = Backoff(0.1, 5)
        self.consumer_missing = asyncio.Event()
        """Set while the server says that the consumer or its stream does not exist."""

    async def __aiter__(self) -> AsyncIterator[Message]:
        subscription = await self._client.subscribe(self._inbox, cb=self._on_message)
        keeper = asyncio.create_task(self._keep_asking(), name=f"pull {self._name}")
        try:
            while self._here or not self._stopped:
                if self._here:
                    yield self._here.popleft()
                    if not self._wanted:
                        await self._ask()
                else:
                    self._stirred.clear()
                    await self._stirred.wait()
        finally:
            keeper.cancel()
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def stop(self) -> None:
        """Asks for no more; what is here is still handed out, then the iteration ends."""
        self._stopped = True
        self._stirred.set()

    def resize(self, window: int, bytes_max: int = 0) -> None:
        """Changes how many messages are asked for ahead, and how many bytes they may have."""
        self._window, self._bytes_max = window, bytes_max
        if window and not self._wanted:
            self._renewal.set()

    async def _ask(self) -> None:
        # What is here and not taken yet still has its part of the window and of the bytes.
        if self._stopped or self._wanted or self._here or not self._client.is_connected:
            return
        batch = self._wanted = self._window
        if not batch:
            return
        request = {
            "batch": batch,
            "expires": PULL_SECONDS * 1_000_000_000,
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1_000_000_000),
            "max_bytes": self._bytes_max,
        }
        with contextlib.suppress(nats.errors.Error):
            await self._client.publish(
                self._request_subject, msgspec.json.encode(request), reply=self._inbox
            )

    @property
    def expects_redelivery(self) -> bool:
        """Whether it began, or had to ask anew, a moment ago.

        A server that leads the consumer from now on may not know what the one before it delivered
        last, and deliver that again, to anyone, as if it were the first time.
        """
        return asyncio.get_running_loop().time() - self._disturbed_at < DISTURBED_SECONDS

    def expect_redelivery(self) -> None:
        """Has what comes in the next minute count as perhaps delivered before."""
        self._disturbed_at = asyncio.get_running_loop().time()

    def renew_request(self) -> None:
        """Forgets what was asked for, because it is not coming, and asks anew."""
        self.expect_redelivery()
        self._wanted = 0
        self._renewal.set()

    async def _keep_asking(self) -> None:
        """Asks at first, when a request has ended, and after three heartbeats of silence."""
        clock = asyncio.get_running_loop().time
        self.expect_redelivery()
        while not self._stopped:
            if clock() - self._last_sign > 3 * HEARTBEAT_SECONDS:
                self.expect_redelivery()
                self._wanted, self._last_sign = 0, clock()
            await self._ask()
            self._renewal.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renewal.wait(), HEARTBEAT_SECONDS)
            if self._refused:
                self._refused = False
                await asyncio.sleep(self._backoff.draw_delay_seconds())

    async def _on_message(self, message: Msg) -> None:
        self._last_sign = asyncio.get_running_loop().time()
        if not message.reply:
            self._on_control(message.headers or {})
            return
        self._wanted = max(0, self._wanted - 1)
        self.consumer_missing.clear()
        self._backoff.reset()
        decoded = _decode_delivery(message)
        if self._stopped:
            # Nobody takes it any more: back to the stream, for the next puller.
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(message.reply, b"-NAK")
        elif decoded is not None:
            self._here.append(decoded)
            self._stirred.set()

    def _on_control(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        description = headers.get("Description", "")
        if status == "100":
            return
        if status == "503" or "Consumer Deleted" in description:
            if not self.consumer_missing.is_set():
                log.warning("the consumer %s is not there", self._name)
            self.consumer_missing.set()
        # 408 is a request that came to its end, as is one whose bytes do not hold the next message.
        # After any other word, such as a change of leader, the next request waits a little, or two
        # hosts would talk as fast as they can.
        self._refused = status != "408" and "MaxBytes" not in description
        if self._refused:
            self.expect_redelivery()
        # What an ended request still wanted is not coming. Where the server does not say how much
        # that was, all of it is asked anew.
        unsent = headers.get("Nats-Pending-Messages", "")
        self._wanted = max(0, self._wanted - int(unsent)) if unsent.isdecimal() else 0
        self._renewal.set()


def _decode_delivery(message: Msg) -> Message | None:
    """A delivered message with what its reply subject says of it.

    `$JS.ACK.<stream>.<consumer>.<delivered>.<stream seq>.<consumer seq>.<time>.<pending>`, or the
    same with `<domain>.<account>` before the stream and a random token at the end.
    """
    tokens = message.reply.split(".")
    tokens = tokens[4:] if len(tokens) > 9 else tokens[2:]
    try:
        delivered, sequence, _, time_ns, pending = map(int, tokens[2:7])
    except ValueError:
        log.warning("skipped a message with the reply subject %r", message.reply)
        return None
    return Message(
        subject=message.subject,
        data=message.data,
        headers=message.headers or {},
        sequence=sequence,
        delivery_count=delivered,
        pending_count=pending,
        time_ns=time_ns,
        reply=message.reply,
    )
