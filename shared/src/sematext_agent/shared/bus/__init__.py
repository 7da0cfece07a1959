"""The bus: NATS with JetStream, and the only package that knows its client.

nats-py 2.16 loses its liveness in several ways, and each is closed here, once:

- A message that it cannot decode ends its reader for good: see `shared.bus.client`.
- `publish_async` leaves its futures pending for ever after an error acknowledgement or a lost
  server. `Bus.publish` keeps its own acknowledgements, each with a deadline.
- By default it gives up reconnecting and closes for good. Here it never does, and if the client
  is closed or its reader ends all the same, `Bus.watch` raises, so that the process is restarted.
- Its way of fetching messages loses requests and messages: see `shared.bus.puller`.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
import weakref
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec

from sematext_agent.shared.bus.client import Msg, TolerantClient
from sematext_agent.shared.bus.errors import (
    BucketEntry,
    BusError,
    ConnectionLost,
    JetStreamError,
    PublishAck,
    PublishTimeout,
    RevisionConflict,
    decode_publish_answer,
)
from sematext_agent.shared.bus.problems import Troubles, forbidden, in_words
from sematext_agent.shared.bus.puller import Message, Puller, api_prefix
from sematext_agent.shared.bus.tls import tls_context
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.settings import ServiceSettings, redact_userinfo
from sematext_agent.shared.subjects import INBOX_PREFIX, RELAYED_REPLY_PREFIX, inbox_prefix

# isort: split
# After shared.bus.client, which decides what nats-py brings along.
import nats.js.errors
from nats.js.api import ConsumerConfig, StreamConfig
from nats.js.kv import KeyValue

log = logging.getLogger(__name__)

ACKNOWLEDGEMENT_SECONDS_MAX = 5.0
"""How long a publish may stay unanswered before it counts as lost."""
_PENDING_BYTES_MAX = 8 * 1024 * 1024


_lost_subscription = re.compile(r"(?i)permissions violation for subscription to \W*_INBOX")


class Bus:
    """One connection to the broker, for the life of a process. Made by `connect`."""

    def __init__(self, client: TolerantClient) -> None:
        self._client = client
        self._jetstream = client.jetstream()
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._unanswered: dict[str, tuple[asyncio.Future[PublishAck], float, str]] = {}
        """By token: who waits for the answer, until when by the loop's clock, and the subject."""
        self._troubles = Troubles()
        self._expiry: asyncio.TimerHandle | None = None
        self._connected = asyncio.Event()
        self._closed = asyncio.Event()
        self._buckets: dict[tuple[str, str], KeyValue] = {}
        self._pullers: weakref.WeakSet[Puller] = weakref.WeakSet()
        self._lost_inbox = False
        """Whether the broker has taken a subscription away on which answers come."""
        self.on_connection: Callable[[bool], None] = lambda up: None
        """Called whenever the broker goes away (False) or comes back (True)."""
        self.on_problem: Callable[[str], None] = lambda text: log.warning("%s", text)
        """Called with what only a person can mend, such as a right that is missing."""

    @property
    def is_connected(self) -> bool:
        """Whether the broker is in reach now."""
        return self._client.is_connected

    @property
    def manager(self) -> Any:
        """The client's JetStream management, for the owner of the streams."""
        return self._jetstream

    async def watch_connection(self) -> None:
        """Watches the client itself; never returns.

        Raises:
            ConnectionLost: the client is closed for good, or its reader has ended.
        """
        deaf_before = False
        while not self._closed.is_set():
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._closed.wait(), timeout=1)
            if self._lost_inbox:
                self._lost_inbox = False
                await self._client.force_reconnect()
            reader = self._client._reading_task  # noqa: SLF001 - there is no public sign of it
            deaf = self._client.is_connected and reader is not None and reader.done()
            if deaf and deaf_before:
                raise ConnectionLost("the reader of the bus has ended")
            deaf_before = deaf
        raise ConnectionLost(f"the broker closed the connection: {self._client.last_error}")

    async def request_api(
        self, call: str, request: dict[str, Any] | None = None, domain: str = ""
    ) -> dict[str, Any]:
        """One request to JetStream's own API, `$JS.API.<call>`, and its answer: JSON both ways.

        For the owner of the streams, also of a leaf node's (`domain`). Waits for a broker away.

        Raises:
            Refused: JetStream answered with an error; its code is 404 where there is no such thing.
            BusError: no answer came.
        """
        await self._connected.wait()
        payload = b"" if request is None else msgspec.json.encode(request)
        try:
            message = await self._client.request(
                f"{api_prefix(domain)}.{call}", payload, timeout=ACKNOWLEDGEMENT_SECONDS_MAX
            )
            answer: dict[str, Any] = msgspec.json.decode(message.data, type=dict)
        except (nats.errors.Error, TimeoutError, *DECODE_ERRORS) as error:
            raise BusError(f"no answer to {call}: {error}") from error
        if refusal := answer.get("error"):
            raise JetStreamError(refusal.get("code", 0), refusal.get("description", "refused"))
        return answer

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> PublishAck:
        """Publishes once and waits for the stream's word that the message is stored.

        `headers` are ASCII texts of one line each; the id becomes one more of them.

        Raises:
            PublishTimeout: none came in `ACKNOWLEDGEMENT_SECONDS_MAX`. Publish again with the
                same id: the stream keeps one copy.
            Refused: the stream answered with an error.
        """
        return await (await self.begin_publish(subject, payload, message_id, headers))

    async def begin_publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> asyncio.Future[PublishAck]:
        """Publishes once, and returns what will hold the stream's word, or why there is none.

        The same as `publish`, for a caller with many on their way: it costs no task and no timer
        of its own. Waits first while the broker is away, so that nothing is kept in a buffer of
        the client.
        """
        await self._connected.wait()
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        answer: asyncio.Future[PublishAck] = loop.create_future()
        self._unanswered[token] = answer, loop.time() + ACKNOWLEDGEMENT_SECONDS_MAX, subject
        if self._expiry is None:
            self._expiry = loop.call_later(ACKNOWLEDGEMENT_SECONDS_MAX, self._expire)
        try:
            reply = f"{self._inbox}.{token}"
            if headers:
                headers = {**headers, "Nats-Msg-Id": message_id}
                await self._client.publish(subject, payload, reply, headers)
            else:
                await self._client.publish_with_id(subject, payload, reply, message_id)
        except nats.errors.Error as error:
            self._end(token, PublishTimeout(str(error)))
        return answer

    def _end(self, token: str, outcome: PublishAck | BusError) -> None:
        """Gives a publish its outcome, unless it has one or nobody waits for it any more."""
        answer, _, _ = self._unanswered.pop(token, (None, 0.0, ""))
        if answer is None or answer.done():
            return
        if isinstance(outcome, PublishAck):
            answer.set_result(outcome)
        else:
            answer.set_exception(outcome)

    def _expire(self) -> None:
        """Ends the publishes whose time is over; the oldest stand first, as all have the same."""
        loop = asyncio.get_running_loop()
        self._expiry = None
        for token, (_, deadline, _) in list(self._unanswered.items()):
            if deadline > loop.time():
                self._expiry = loop.call_at(deadline, self._expire)
                break
            self._end(token, PublishTimeout("no acknowledgement in time"))

    def _on_error(self, error: Exception, user: str) -> None:
        """Says what is in the way, the same once a minute, and ends the publishes it is about."""
        log.debug("bus: %s", error)
        if _lost_subscription.search(str(error)):
            # Together with the right to it the broker gives no subscription back: make it anew.
            self._lost_inbox = True
        if not (text := in_words(error, user)):
            return
        if self._troubles.is_news(text):
            self.on_problem(text)
        refused = forbidden(error)
        for token, (_, _, subject) in list(self._unanswered.items()):
            if refused == ("publish", subject.lower()):
                self._end(token, PublishTimeout(text))

    def _on_answer(self, subject: bytes, payload: bytes, header: bytes) -> None:
        token = subject.rpartition(b".")[2].decode(errors="replace")
        self._end(token, decode_publish_answer(payload, header))

    def _on_disconnect(self) -> None:
        """Ends the waiting for answers that cannot come any more."""
        self._connected.clear()
        self.on_connection(False)
        for token in list(self._unanswered):
            self._end(token, PublishTimeout("the broker went away"))

    def _on_connect(self) -> None:
        """Lets publishes through, and has pullers ask anew: their requests died with the server."""
        self._connected.set()
        self.on_connection(True)
        for puller in self._pullers:
            puller.renew_request()

    async def send(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Sends a message at most once; answers to it, if any, go to `reply`."""
        await self._client.publish(subject, payload, reply=reply)

    def new_inbox(self) -> str:
        """A subject for answers to this process alone."""
        return self._client.new_inbox()

    async def reply(self, question: Msg, payload: bytes) -> None:
        """Answers `question`, if its sender waits for that.

        Only to an inbox: whoever asks names the subject of the answer, and it must not become an
        event.
        """
        if question.reply.startswith((INBOX_PREFIX, RELAYED_REPLY_PREFIX)):
            await self.send(question.reply, payload)

    async def subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]]
    ) -> Callable[[], Awaitable[None]]:
        """Hands every live message on `subject` to `handler`; returns what ends it."""
        subscription = await self._client.subscribe(subject, cb=handler)

        async def end() -> None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

        return end

    async def request(self, subject: str, payload: bytes, seconds: float) -> bytes | None:
        """What the first to answer on `subject` says; None where nobody does within `seconds`."""
        try:
            return (await self._client.request(subject, payload, timeout=seconds)).data
        except (nats.errors.Error, TimeoutError):
            return None

    async def request_all(self, subject: str, seconds: float) -> list[bytes]:
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

    async def get(self, bucket: str, key: str, domain: str = "") -> bytes | None:
        """The value of `key`, or None where there is none. Raises BusError as `entry` does."""
        return (await self.get_entry(bucket, key, domain)).value

    async def get_entry(self, bucket: str, key: str, domain: str = "") -> BucketEntry:
        """The value of `key` and its revision. Raises BusError where it cannot be read now."""
        try:
            entry = await (await self._bucket(bucket, domain)).get(key)
            return BucketEntry(entry.value, entry.revision or 0)
        except nats.js.errors.KeyNotFoundError as missing:
            # What was deleted leaves a mark, which has a revision too.
            return BucketEntry(None, missing.entry.revision if missing.entry else 0)
        except nats.errors.Error as error:
            raise BusError(f"cannot read {bucket}/{key}: {error}") from error

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Stores `value` under `key`. Raises BusError where that cannot be done now."""
        try:
            await (await self._bucket(bucket)).put(key, value)
        except nats.errors.Error as error:
            raise BusError(f"cannot write {bucket}/{key}: {error}") from error

    async def replace(self, bucket: str, key: str, value: bytes, revision: int) -> int:
        """Stores `value` in place of `revision`, and returns the new one.

        Raises:
            Conflict: the key is at another revision.
            BusError: that cannot be done now, or nobody said that it was.
        """
        try:
            return await (await self._bucket(bucket)).update(key, value, last=revision)
        except nats.js.errors.KeyWrongLastSequenceError as error:
            raise RevisionConflict(f"{bucket}/{key} is not at revision {revision}") from error
        except nats.errors.Error as error:
            raise BusError(f"cannot write {bucket}/{key}: {error}") from error

    async def keys(self, bucket: str, domain: str = "") -> list[str]:
        """The keys of a bucket. Raises BusError where it cannot be read now."""
        try:
            return await (await self._bucket(bucket, domain)).keys()
        except nats.js.errors.NoKeysError:
            return []
        except nats.errors.Error as error:
            raise BusError(f"cannot list {bucket}: {error}") from error

    async def _bucket(self, name: str, domain: str = "") -> KeyValue:
        if (name, domain) not in self._buckets:
            jetstream = self._client.jetstream(domain=domain) if domain else self._jetstream
            self._buckets[name, domain] = await jetstream.key_value(name)
        return self._buckets[name, domain]

    async def wait_until_ready(self, *buckets: str) -> None:
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
                await asyncio.sleep(backoff.draw_delay_seconds())

    def create_puller(self, stream: str, consumer: str, window: int, domain: str = "") -> Puller:
        """Messages of a durable consumer, at most `window` of them asked for ahead."""
        puller = Puller(self._client, stream, consumer, window, domain)
        self._pullers.add(puller)
        return puller

    async def acknowledge(self, message: Message) -> None:
        """Tells the stream that `message` is done with."""
        await self._respond(message, b"+ACK")

    async def extend_ack_deadline(self, message: Message) -> None:
        """Tells the stream that `message` is still being worked on: its timer starts anew."""
        await self._respond(message, b"+WPI")

    async def negative_acknowledge(self, message: Message, seconds: float = 0) -> None:
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


async def connect(settings: ServiceSettings, name: str) -> Bus:
    """Connects to the broker, waiting for as long as it takes, and reconnects for ever.

    Raises:
        SettingsError: the address, or a file of keys and certificates, cannot be used at all.
    """
    client = TolerantClient()
    bus = Bus(client)

    # A callback that raises would end the client's reconnecting, so these only set and log.
    async def on_error(error: Exception) -> None:
        bus._on_error(error, settings.nats_user)  # noqa: SLF001

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
        "tls": tls_context(settings),
        "user": settings.nats_user or None,
        "password": settings.nats_password.reveal() or None,
        "inbox_prefix": inbox_prefix(settings.nats_user),
    }
    backoff = Backoff(0.1, 5)
    said = ""
    while True:
        try:
            await client.connect(**options, allow_reconnect=True)  # type: ignore[arg-type]
            break
        except (nats.errors.Error, OSError, TimeoutError) as error:
            why = in_words(error, settings.nats_user) or str(error) or type(error).__name__
            if backoff.failures >= 3 and why != said:
                places = ", ".join(map(redact_userinfo, settings.nats_url))
                log.info("waiting for the broker at %s: %s", places, why)
                said = why
            await asyncio.sleep(backoff.draw_delay_seconds())
    bus._inbox = client.new_inbox()  # noqa: SLF001 - not before: its beginning is an option
    await client.subscribe_direct(f"{bus._inbox}.*", bus._on_answer)  # noqa: SLF001
    bus._connected.set()  # noqa: SLF001
    return bus


__all__ = [
    "BucketEntry",
    "Bus",
    "BusError",
    "ConnectionLost",
    "ConsumerConfig",
    "JetStreamError",
    "Message",
    "Msg",
    "PublishAck",
    "PublishTimeout",
    "Puller",
    "RevisionConflict",
    "StreamConfig",
    "api_prefix",
    "connect",
]
