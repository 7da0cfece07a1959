"""The simulated client of NATS: as much of nats-py as the bus uses, with its errors and its buffer.

While it reconnects it keeps what is published and sends it afterwards, acknowledgements included.
"""

from __future__ import annotations

import asyncio
import random
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import nats.errors
import nats.js.errors
from nats.js import JetStreamContext
from nats.js.kv import KeyValue
from simulation.broker import Broker
from simulation.network import CLOSE, Connection, Frame, Link

from sematext_agent.shared.bus import Msg, TolerantClient
from sematext_agent.shared.bus.client import DirectHandler

PING_SECONDS = 10
OUTSTANDING_PINGS_MAX = 2
RECONNECT_SECONDS = 0.5
CONNECT_SECONDS_MAX = 5
_STALE = "nats: stale connection"

Callback = Callable[[Msg], Awaitable[None]]


class SimSubscription:
    """One subscription, whose callbacks run one after the other."""

    def __init__(self, client: SimClient, sid: int, subject: str, callback: Callback) -> None:
        self._client = client
        self._id = sid
        self.subject = subject
        self._callback = callback
        self._messages: deque[Msg] = deque()
        self._wakeup = asyncio.Event()
        self._task = asyncio.create_task(self._run(), name=f"subscription {subject}")

    def put(self, message: Msg) -> None:
        """Hand `message` to the callback soon."""
        self._messages.append(message)
        self._wakeup.set()

    async def unsubscribe(self) -> None:
        """End it."""
        self._client.remove(self._id)
        self._task.cancel()

    async def _run(self) -> None:
        while True:
            await self._wakeup.wait()
            self._wakeup.clear()
            while self._messages:
                await self._callback(self._messages.popleft())


class SimJetStream(JetStreamContext):
    """JetStream over the simulated client; a bucket never has keys to list."""

    async def key_value(self, bucket: str) -> KeyValue:
        """Return a bucket that exists."""
        opened = await super().key_value(bucket)

        async def keys(*_: object, **__: object) -> list[str]:
            raise nats.js.errors.NoKeysError  # it would need a push consumer, for host facts alone

        opened.keys = keys  # type: ignore[method-assign]
        return opened


class SimClient(TolerantClient):
    """One client of one simulated process."""

    def __init__(self, broker: Broker, link: Link, random: random.Random) -> None:
        super().__init__()
        self._broker = broker
        self._link = link
        self._random = random
        self._options: dict[str, Any] = {}
        self._connection: Connection | None = None
        self._is_up = False
        self._buffer: list[Frame] = []
        self._sids = 0
        self._subscriptions: dict[int, SimSubscription] = {}
        self._pings: dict[int, asyncio.Future[None]] = {}
        self._answers: dict[str, asyncio.Future[Msg]] = {}
        self._answer_inbox = ""

    @property
    def is_connected(self) -> bool:
        """True while nothing is known to be wrong with the connection."""
        return self._is_up

    # The connection

    async def connect(self, **options: Any) -> None:  # type: ignore[override]
        """Connect, however long it takes."""
        self._options = options
        await self._dial()
        self._is_up = True
        asyncio.create_task(self._watch(), name="pings")  # noqa: RUF006 - the loop keeps it

    async def _dial(self) -> None:
        while not await self._attempt():
            await asyncio.sleep(RECONNECT_SECONDS)

    async def _attempt(self) -> bool:
        await asyncio.sleep(self._random.uniform(0.001, 0.02))
        if self._link.is_cut:
            await asyncio.sleep(CONNECT_SECONDS_MAX)
            return False
        if not self._broker.epoch:
            return False
        loop: Any = asyncio.get_running_loop()
        connection: Connection

        def on_frames(frames: list[Frame]) -> None:
            loop.call_soon(self._on_frames, connection, frames)

        connection = Connection(self._link, self._broker, on_frames)
        self._connection = connection
        return True

    def abandon(self) -> None:
        """Close the socket as the kernel does when the process ends."""
        if self._connection is not None:
            self._connection.send(CLOSE)

    async def _watch(self) -> None:
        """Ping, and reconnect whenever the connection is found dead."""
        outstanding: deque[asyncio.Future[None]] = deque()
        while True:
            await asyncio.sleep(PING_SECONDS)
            if not self._is_up:
                outstanding.clear()
                continue
            while outstanding and outstanding[0].done():
                outstanding.popleft()
            if len(outstanding) >= OUTSTANDING_PINGS_MAX:
                outstanding.clear()
                self._lose(_STALE)
            else:
                outstanding.append(self._ping())

    def _ping(self) -> asyncio.Future[None]:
        pong = asyncio.get_running_loop().create_future()
        self._sids += 1
        self._pings[self._sids] = pong
        self._transmit(Frame("PING", self._sids))
        return pong

    def _lose(self, reason: str) -> None:
        if self._is_up:
            self._is_up = False
            self._link.world.record(f"{asyncio.get_running_loop()} lost the broker: {reason}")
            self.abandon()
            self._connection = None
            asyncio.create_task(self._reconnect(), name="reconnect")  # noqa: RUF006

    async def _reconnect(self) -> None:
        await self._options["disconnected_cb"]()
        await self._dial()
        assert self._connection is not None
        for sid, subscription in self._subscriptions.items():
            self._connection.send(Frame("SUB", sid, subscription.subject))
        for frame in self._buffer:
            self._connection.send(frame)
        self._buffer.clear()
        self._is_up = True
        self._link.world.record(f"{asyncio.get_running_loop()} reconnected")
        await self._options["reconnected_cb"]()

    async def force_reconnect(self) -> None:
        """Drop the connection and make a new one."""
        self._lose("asked for")

    async def close(self) -> None:
        """Close for good."""
        self._is_up = False
        self.abandon()
        self._connection = None
        await self._options["disconnected_cb"]()
        await self._options["closed_cb"]()

    async def flush(self, timeout: int = 10) -> None:
        """Wait until the broker has taken everything."""
        if not self._is_up:
            raise nats.errors.ConnectionClosedError
        await asyncio.wait_for(self._ping(), timeout)

    # Messages

    def _transmit(self, frame: Frame) -> None:
        if self._connection is not None:
            self._connection.send(frame)

    def _on_frames(self, connection: Connection, frames: list[Frame]) -> None:
        if connection is not self._connection:
            return
        for frame in frames:
            if frame.verb == "MSG":
                self._on_message(frame)
            elif frame.verb == "PONG":
                pong = self._pings.pop(frame.sid)
                if not pong.done():
                    pong.set_result(None)
            else:
                self._lose("connection reset")

    def _on_message(self, frame: Frame) -> None:
        subscription = self._subscriptions.get(frame.sid)
        handler = self._direct.get(frame.sid)
        if handler is not None:
            status = (frame.headers or {}).get("Status", "")
            header = f"NATS/1.0 {status}".encode() if status else b""
            handler(frame.subject.encode(), frame.payload, header)
        elif subscription is not None:
            # The headers are copied, for a message of a stream has them for ever.
            headers = dict(frame.headers) if frame.headers else None
            message = Msg(self, frame.subject, frame.reply, frame.payload, headers)
            subscription.put(message)

    async def publish(
        self,
        subject: str,
        payload: bytes = b"",
        reply: str = "",
        headers: dict[str, str] | None = None,
    ) -> None:
        """Publish, or keep it until the connection is back."""
        frame = Frame("PUB", 0, subject, reply, payload, headers)
        if self._is_up:
            self._transmit(frame)
        else:
            self._buffer.append(frame)

    async def publish_with_id(
        self, subject: str, payload: bytes, reply: str, message_id: str
    ) -> None:
        """Publish with the one header `Nats-Msg-Id`."""
        await self.publish(subject, payload, reply, {"Nats-Msg-Id": message_id})

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """Send a request and return its answer."""
        return await self._request(*arguments, **options)

    async def _request(
        self,
        subject: str,
        payload: bytes = b"",
        timeout: float = 0.5,
        headers: dict[str, str] | None = None,
    ) -> Msg:
        if not self._answer_inbox:
            self._answer_inbox = self.new_inbox()
            await self.subscribe(f"{self._answer_inbox}.*", cb=self._on_answer)
        self._sids += 1
        inbox = f"{self._answer_inbox}.{self._sids}"
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._answers[inbox] = future
        await self.publish(subject, payload, inbox, headers)
        try:
            async with asyncio.timeout(timeout):
                message = await future
        except TimeoutError:
            raise nats.errors.TimeoutError from None
        finally:
            self._answers.pop(inbox, None)
        if (message.headers or {}).get("Status") == "503":
            raise nats.errors.NoRespondersError
        return message

    async def _on_answer(self, message: Msg) -> None:
        future = self._answers.get(message.subject)
        if future is not None and not future.done():
            future.set_result(message)

    # Subscriptions

    async def subscribe(  # type: ignore[override]
        self, subject: str, *, cb: Callback
    ) -> SimSubscription:
        """Hand every message on `subject` to `cb`."""
        self._sids += 1
        subscription = SimSubscription(self, self._sids, subject, cb)
        self._subscriptions[self._sids] = subscription
        if self._is_up:
            self._transmit(Frame("SUB", self._sids, subject))
        return subscription

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> None:
        """Hand every message on `subject` to `handler` at once."""

        async def ignore(_: Msg) -> None:
            """Do nothing: `_on_message` has called `handler`."""

        subscription = await self.subscribe(subject, cb=ignore)
        self._direct[subscription._id] = handler

    def remove(self, sid: int) -> None:
        """End a subscription."""
        if self._subscriptions.pop(sid, None) is not None:
            self._transmit(Frame("UNSUB", sid))

    def new_inbox(self) -> str:
        """Return a subject that nobody else has."""
        return f"_INBOX.{self._random.getrandbits(80):020x}"

    def jetstream(self, **options: Any) -> JetStreamContext:
        """Return JetStream over this client."""
        return SimJetStream(self, domain=options.get("domain"))
