"""The bus: NATS with JetStream, and the only module that knows its client.

nats-py 2.16 loses its liveness in several ways, and each is closed here, once:

- A message whose subject or header it cannot decode ends its reader for good while it still
  reports itself connected. `_TolerantClient` decodes whatever the server lets through.
- `publish_async` leaves its futures pending for ever after an error acknowledgement or a lost
  server. `Bus.publish` keeps its own acknowledgements, each with a deadline.
- By default it gives up reconnecting and closes for good. Here it never does, and if the client
  is closed or its reader ends all the same, `Bus.watch` raises, so that the process is restarted.
- A header `Status:` makes `fetch` discard a message as if the server had sent it, and a lost
  request leaves it waiting. `Bus.pull` knows the server's own messages by their missing reply
  subject, and notices silence by the server's heartbeats.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import itertools
import logging
import re
import ssl
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any, TypeVar

import msgspec

# Where aiohttp is installed, nats-py imports it for websockets, which are not used here: it would
# cost every service 10 MB and 0.1 s. Absent for the moment of the import, it is there afterwards.
_aiohttp = sys.modules.get("aiohttp")
sys.modules["aiohttp"] = None  # type: ignore[assignment]

import nats.errors
import nats.js.errors
import nats.protocol.parser
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import ConsumerConfig, ConsumerInfo, StreamConfig, StreamInfo
from nats.js.kv import KeyValue

from shared.retry import Backoff
from shared.settings import ServiceSettings, SettingsError

del sys.modules["aiohttp"]
if _aiohttp is not None:
    sys.modules["aiohttp"] = _aiohttp

log = logging.getLogger(__name__)

T = TypeVar("T")

ACKNOWLEDGEMENT_SECONDS_MAX = 5.0
"""How long a publish may stay unanswered before it counts as lost."""
PULL_SECONDS = 30
"""How long the server keeps one request for messages open."""
HEARTBEAT_SECONDS = 2
"""How often the server says, on an open request, that it is still there."""
_PENDING_BYTES_MAX = 8 * 1024 * 1024


class BusError(Exception):
    """The bus did not do what was asked; the text says why. Trying again is right."""


class NoAcknowledgement(BusError):  # noqa: N818 - it is one, and reads better than with a suffix
    """A publish was not acknowledged in time; it may have been stored all the same."""


class Refused(BusError):  # noqa: N818
    """JetStream answered a publish with an error, such as a full stream."""

    def __init__(self, code: int, description: str) -> None:
        super().__init__(f"{description} ({code})")
        self.code = code


class BusLost(Exception):  # noqa: N818
    """The client is closed for good or deaf: only a new process helps."""


class Acknowledgement(msgspec.Struct, frozen=True):
    """JetStream's word that a message is stored."""

    seq: int
    duplicate: bool = False
    """True where the id was stored before, and this copy was not."""


class Message(msgspec.Struct, frozen=True):
    """One message of a stream, as it was delivered to a puller."""

    subject: str
    data: bytes
    headers: dict[str, str]
    sequence: int
    """Its number in the stream."""
    delivered: int
    """How often it has been delivered, this time included."""
    pending: int
    """How many more the consumer still has to deliver."""
    time_ns: int
    """When the stream stored it."""
    reply: str

    @property
    def id(self) -> str:
        """The id it was published with, or nothing."""
        return self.headers.get("Nats-Msg-Id", "")


class _PublishAnswer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_answer = msgspec.json.Decoder(_PublishAnswer)

# The client's own patterns end a token at \v and \f too, which the server lets stand in a subject.
# Such a message would be a protocol error, and stored in a stream it would be one for ever.
nats.protocol.parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
nats.protocol.parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


class _TolerantClient(Client):
    """A client whose reader outlives whatever a message holds."""

    def _build_message(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: dict[str, str] | None
    ) -> Msg:
        return self.msg_class(
            subject=subject.decode(errors="surrogateescape"),
            reply=reply.decode(errors="surrogateescape"),
            data=data,
            headers=headers,
            _client=self,
            _sid=sid,
        )

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError, nats.errors.Error) as error:
            log.debug("skipped a header that cannot be decoded: %s", error)
            return None


class Bus:
    """One connection to the broker, for the life of a process. Made by `connect`."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._inbox = client.new_inbox()
        self._tokens = itertools.count(1)
        self._unanswered: dict[str, asyncio.Future[Acknowledgement]] = {}
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._buckets: dict[str, KeyValue] = {}
        self._pullers: list[Puller] = []
        self.on_connection: Callable[[bool], None] = lambda up: None
        """Called whenever the broker goes away (False) or comes back (True)."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker is in reach now."""
        return self._client.is_connected

    @property
    def manager(self) -> Any:
        """The client's JetStream management, for the owner of the streams."""
        return self._jetstream

    async def watch(self) -> None:
        """Watches the client itself; never returns.

        Raises:
            BusLost: the client is closed for good, or its reader has ended.
        """
        deaf_before = False
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), timeout=1)
            reader = self._client._reading_task  # noqa: SLF001 - there is no public sign of it
            deaf = self._client.is_connected and reader is not None and reader.done()
            if deaf and deaf_before:
                raise BusLost("the reader of the bus has ended")
            deaf_before = deaf
        raise BusLost(f"the broker closed the connection: {self._client.last_error}")

    async def api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """One request to JetStream's own API, `$JS.API.<call>`, and its answer: JSON both ways.

        For the owner of the streams. Waits first while the broker is away.

        Raises:
            Refused: JetStream answered with an error; its code is 404 where there is no such thing.
            BusError: no answer came.
        """
        await self._connected.wait()
        payload = b"" if request is None else msgspec.json.encode(request)
        try:
            message = await self._client.request(
                f"$JS.API.{call}", payload, timeout=ACKNOWLEDGEMENT_SECONDS_MAX
            )
            answer: dict[str, Any] = msgspec.json.decode(message.data, type=dict)
        except (nats.errors.Error, TimeoutError, msgspec.DecodeError) as error:
            raise BusError(f"no answer to {call}: {error}") from error
        if refusal := answer.get("error"):
            raise Refused(refusal.get("code", 0), refusal.get("description", "refused"))
        return answer

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> Acknowledgement:
        """Publishes once and waits for the stream's word that the message is stored.

        `headers` are ASCII texts of one line each; the id becomes one more of them.
        Waits first while the broker is away, so that nothing is kept in a buffer of the client.

        Raises:
            NoAcknowledgement: none came in `ACKNOWLEDGEMENT_SECONDS_MAX`. Publish again with the
                same id: the stream keeps one copy.
            Refused: the stream answered with an error.
        """
        await self._connected.wait()
        token = str(next(self._tokens))
        answer: asyncio.Future[Acknowledgement] = asyncio.get_running_loop().create_future()
        self._unanswered[token] = answer
        try:
            await self._client.publish(
                subject,
                payload,
                reply=f"{self._inbox}.{token}",
                headers={**(headers or {}), "Nats-Msg-Id": message_id},
            )
            async with asyncio.timeout(ACKNOWLEDGEMENT_SECONDS_MAX):
                return await answer
        except TimeoutError:
            raise NoAcknowledgement(f"no acknowledgement on {subject}") from None
        except nats.errors.Error as error:
            raise NoAcknowledgement(str(error)) from error
        finally:
            del self._unanswered[token]

    async def _on_answer(self, message: Msg) -> None:
        answer = self._unanswered.get(message.subject.rpartition(".")[2])
        if answer is None or answer.done():
            return
        if (message.headers or {}).get("Status") == "503":
            answer.set_exception(Refused(503, "no stream takes this subject"))
            return
        try:
            reply = _answer.decode(message.data)
        except msgspec.DecodeError as error:
            answer.set_exception(NoAcknowledgement(f"an answer that is none: {error}"))
            return
        if reply.error:
            refusal = reply.error
            description = refusal.get("description", "refused without a reason")
            answer.set_exception(Refused(refusal.get("code", 0), description))
        else:
            answer.set_result(Acknowledgement(reply.seq, reply.duplicate))

    def _on_disconnect(self) -> None:
        """Ends the waiting for answers that cannot come any more."""
        self._connected.clear()
        self.on_connection(False)
        for answer in self._unanswered.values():
            if not answer.done():
                answer.set_exception(NoAcknowledgement("the broker went away"))

    def _on_connect(self) -> None:
        """Lets publishes through, and has pullers ask anew: their requests died with the server."""
        self._connected.set()
        self.on_connection(True)
        for puller in self._pullers:
            puller.renew()

    async def send(self, subject: str, payload: bytes) -> None:
        """Sends a message that needs no answer: at most once."""
        await self._client.publish(subject, payload)

    async def subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Hands every live message on `subject` to `handler`; returns what ends it."""
        subscription = await self._client.subscribe(subject, cb=handler)

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

        return end

    async def ask_all(self, subject: str, seconds: float) -> list[bytes]:
        """What everyone who listens on `subject` answers within `seconds`."""
        answers: list[bytes] = []
        inbox = self._client.new_inbox()

        async def collect(message: Msg) -> None:
            if (message.headers or {}).get("Status") != "503":
                answers.append(message.data)

        end = await self.subscribe(inbox, collect)
        await self._client.publish(subject, b"", reply=inbox)
        await asyncio.sleep(seconds)
        await end()
        return answers

    async def get(self, bucket: str, key: str) -> bytes | None:
        """The value of `key`, or None where there is none.

        Raises:
            BusError: the bucket cannot be read now.
        """
        try:
            return (await (await self._bucket(bucket)).get(key)).value
        except nats.js.errors.KeyNotFoundError:
            return None
        except nats.errors.Error as error:
            raise BusError(f"cannot read {bucket}/{key}: {error}") from error

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Stores `value` under `key`. Raises BusError where that cannot be done now."""
        try:
            await (await self._bucket(bucket)).put(key, value)
        except nats.errors.Error as error:
            raise BusError(f"cannot write {bucket}/{key}: {error}") from error

    async def keys(self, bucket: str) -> list[str]:
        """The keys of a bucket. Raises BusError where it cannot be read now."""
        try:
            return await (await self._bucket(bucket)).keys()
        except nats.js.errors.NoKeysError:
            return []
        except nats.errors.Error as error:
            raise BusError(f"cannot list {bucket}: {error}") from error

    async def _bucket(self, name: str) -> KeyValue:
        if name not in self._buckets:
            self._buckets[name] = await self._jetstream.key_value(name)
        return self._buckets[name]

    async def until_ready(self, *buckets: str) -> None:
        """Waits until the forwarder has made the streams and buckets, and says so once."""
        backoff = Backoff(0.1, 2)
        while True:
            try:
                for bucket in buckets:
                    await self._bucket(bucket)
                return
            except nats.errors.Error:
                if backoff.failures == 5:
                    log.info("waiting for the forwarder to make the streams")
                await asyncio.sleep(backoff.next_seconds())

    def pull(self, stream: str, consumer: str, window: int) -> Puller:
        """Messages of a durable consumer, at most `window` of them asked for ahead."""
        puller = Puller(self._client, stream, consumer, window)
        self._pullers.append(puller)
        return puller

    async def reader(
        self, stream: str, subject: str, since: datetime.datetime | int, window: int = 256
    ) -> Puller | None:
        """Stored and then live messages on `subject`, for somebody who only looks on.

        `since` is a time or a sequence. They come from a consumer of its own, which needs no
        acknowledgements and which the server forgets soon after the last request; the puller's
        `missing` then says so. None where there is no such stream. Raises BusError.
        """
        start: dict[str, Any] = (
            {"deliver_policy": "by_start_sequence", "opt_start_seq": max(1, since)}
            if isinstance(since, int)
            else {"deliver_policy": "by_start_time", "opt_start_time": since}
        )
        config = ConsumerConfig(
            ack_policy="none",  # type: ignore[arg-type]  # the client takes the word as well
            filter_subject=subject, inactive_threshold=PULL_SECONDS, mem_storage=True, **start,
        )  # fmt: skip
        made = await self._managed(self._jetstream.add_consumer(stream, config))
        return self.pull(stream, made.name, window) if made else None

    async def stream_info(self, stream: str) -> StreamInfo | None:
        """What the server says of a stream; None where there is none. Raises BusError."""
        return await self._managed(self._jetstream.stream_info(stream))

    async def consumer_info(self, stream: str, consumer: str) -> ConsumerInfo | None:
        """What the server says of a consumer; None where there is none. Raises BusError."""
        return await self._managed(self._jetstream.consumer_info(stream, consumer))

    async def delete(self, stream: str, sequence: int) -> None:
        """Removes one message from a stream. Raises BusError, also where there is none."""
        await self._managed(self._jetstream.delete_msg(stream, sequence))

    async def _managed(self, request: Awaitable[T]) -> T | None:
        try:
            return await request
        except nats.js.errors.NotFoundError:
            return None
        except nats.errors.Error as error:
            raise BusError(str(error)) from error

    async def acknowledge(self, message: Message) -> None:
        """Tells the stream that `message` is done with."""
        await self._respond(message, b"+ACK")

    async def in_progress(self, message: Message) -> None:
        """Tells the stream that `message` is still being worked on: its timer starts anew."""
        await self._respond(message, b"+WPI")

    async def give_back(self, message: Message, seconds: float = 0) -> None:
        """Has the stream deliver `message` again, to anyone, after `seconds`."""
        delay = b' {"delay": %d}' % int(seconds * 1e9) if seconds else b""
        await self._respond(message, b"-NAK" + delay)

    async def _respond(self, message: Message, word: bytes) -> None:
        # A word that is lost with the connection costs a redelivery, never an event.
        with contextlib.suppress(nats.errors.Error):
            await self._client.publish(message.reply, word)

    async def flush(self) -> None:
        """Waits until the broker has everything sent so far, for a few seconds at most."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._client.flush(timeout=2)

    async def close(self) -> None:
        """Sends what is left and closes. `drain` of the client is not used: it can hang."""
        await self.flush()
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.close()


class Puller:
    """A steady flow of messages from a durable consumer: `async for message in puller`.

    It keeps requests for up to `window` messages open at the server and renews them at half.
    Iteration ends after `stop`, when the messages already here have been taken.
    """

    def __init__(self, client: Client, stream: str, consumer: str, window: int) -> None:
        self._client = client
        self._request_subject = f"$JS.API.CONSUMER.MSG.NEXT.{stream}.{consumer}"
        self._name = f"{stream}/{consumer}"
        self._inbox = client.new_inbox()
        self._window = window
        self._wanted = 0  # asked for and not yet here
        self._here: asyncio.Queue[Message | None] = asyncio.Queue()
        self._last_sign = 0.0
        self._renewal = asyncio.Event()
        self._refused = False  # the last request, by the server
        self._stopped = False
        self._backoff = Backoff(0.1, 5)
        self.missing = asyncio.Event()
        """Set while the server says that the consumer or its stream does not exist."""

    async def __aiter__(self) -> AsyncIterator[Message]:
        subscription = await self._client.subscribe(self._inbox, cb=self._on_message)
        keeper = asyncio.create_task(self._keep_asking(), name=f"pull {self._name}")
        try:
            while (message := await self._here.get()) is not None:
                yield message
                if self._wanted + self._here.qsize() <= self._window // 2:
                    await self._ask()
        finally:
            keeper.cancel()
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

    def stop(self) -> None:
        """Asks for no more; what is here is still handed out, then the iteration ends."""
        if not self._stopped:
            self._stopped = True
            self._here.put_nowait(None)

    def resize(self, window: int) -> None:
        """Changes how many messages are asked for ahead."""
        self._window = window
        if window and self._wanted + self._here.qsize() <= window // 2:
            self._renewal.set()

    async def _ask(self) -> None:
        batch = self._window - self._wanted - self._here.qsize()
        if self._stopped or batch <= 0 or not self._client.is_connected:
            return
        self._wanted += batch
        request = {
            "batch": batch,
            "expires": PULL_SECONDS * 1_000_000_000,
            "idle_heartbeat": int(HEARTBEAT_SECONDS * 1_000_000_000),
        }
        with contextlib.suppress(nats.errors.Error):
            await self._client.publish(
                self._request_subject, msgspec.json.encode(request), reply=self._inbox
            )

    def renew(self) -> None:
        """Forgets what was asked for, because it is not coming, and asks anew."""
        self._wanted = 0
        self._renewal.set()

    async def _keep_asking(self) -> None:
        """Asks at first, when a request has ended, and after three heartbeats of silence."""
        clock = asyncio.get_running_loop().time
        while not self._stopped:
            if clock() - self._last_sign > 3 * HEARTBEAT_SECONDS:
                self._wanted, self._last_sign = 0, clock()
            await self._ask()
            self._renewal.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._renewal.wait(), HEARTBEAT_SECONDS)
            if self._refused:
                self._refused = False
                await asyncio.sleep(self._backoff.next_seconds())

    async def _on_message(self, message: Msg) -> None:
        self._last_sign = asyncio.get_running_loop().time()
        if not message.reply:
            self._on_control(message.headers or {})
            return
        self._wanted = max(0, self._wanted - 1)
        self.missing.clear()
        self._backoff.reset()
        decoded = _decode_delivery(message)
        if self._stopped:
            # Nobody takes it any more: back to the stream, for the next puller.
            with contextlib.suppress(nats.errors.Error):
                await self._client.publish(message.reply, b"-NAK")
        elif decoded is not None:
            self._here.put_nowait(decoded)

    def _on_control(self, headers: dict[str, str]) -> None:
        status = headers.get("Status", "")
        description = headers.get("Description", "")
        if status == "100":
            return
        if status == "503" or "Consumer Deleted" in description:
            if not self.missing.is_set():
                log.warning("the consumer %s does not exist: %s", self._name, description or status)
            self.missing.set()
        # 408 is a request that came to its end. After any other word, such as a change of leader,
        # the next request waits a little, or two hosts would talk as fast as they can.
        self._refused = status != "408"
        # What an ended request still wanted is not coming. Where the server does not say how much
        # that was, all of it is asked anew.
        unsent = headers.get("Nats-Pending-Messages", "")
        self._wanted = max(0, self._wanted - int(unsent)) if unsent.isdigit() else 0
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
        delivered=delivered,
        pending=pending,
        time_ns=time_ns,
        reply=message.reply,
    )


async def connect(settings: ServiceSettings, name: str) -> Bus:
    """Connects to the broker, waiting for as long as it takes, and reconnects for ever.

    Raises:
        SettingsError: the address or the authority's file cannot be used at all.
    """
    client = _TolerantClient()
    bus = Bus(client)

    # A callback that raises would end the client's reconnecting, so these only set and log.
    async def on_error(error: Exception) -> None:
        log.debug("bus: %s", error)

    async def on_disconnect() -> None:
        bus._on_disconnect()  # noqa: SLF001

    async def on_reconnect() -> None:
        bus._on_connect()  # noqa: SLF001

    async def on_close() -> None:
        bus._closed.set()  # noqa: SLF001

    options = {
        "servers": list(settings.nats_url),
        "name": name,
        "error_cb": on_error,
        "disconnected_cb": on_disconnect,
        "reconnected_cb": on_reconnect,
        "closed_cb": on_close,
        "max_reconnect_attempts": -1,
        "reconnect_time_wait": 0.5,
        "connect_timeout": 5,
        "ping_interval": 10,
        "max_outstanding_pings": 2,
        "pending_size": _PENDING_BYTES_MAX,
        "tls": _tls(settings),
        "user": settings.nats_user or None,
        "password": settings.nats_password.reveal() or None,
    }
    backoff = Backoff(0.1, 5)
    while True:
        try:
            await client.connect(**options, allow_reconnect=True)  # type: ignore[arg-type]
            break
        except (nats.errors.Error, OSError, TimeoutError) as error:
            if backoff.failures == 3:
                log.info("waiting for the broker at %s: %s", ", ".join(settings.nats_url), error)
            await asyncio.sleep(backoff.next_seconds())
    await client.subscribe(f"{bus._inbox}.*", cb=bus._on_answer)  # noqa: SLF001
    bus._connected.set()  # noqa: SLF001
    return bus


def _tls(settings: ServiceSettings) -> ssl.SSLContext | None:
    if not any(url.startswith("tls://") for url in settings.nats_url):
        return None
    try:
        return ssl.create_default_context(cafile=settings.nats_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"NATS_CA={settings.nats_ca}", f"cannot be used ({error})", "name a PEM file"
        ) from None


__all__ = [
    "Acknowledgement", "Bus", "BusError", "BusLost", "ConsumerConfig", "ConsumerInfo", "Message",
    "Msg", "NoAcknowledgement", "Puller", "Refused", "StreamConfig", "StreamInfo", "connect",
]  # fmt: skip
