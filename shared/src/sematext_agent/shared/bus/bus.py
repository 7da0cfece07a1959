"""The bus as services use it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import nats.errors

from sematext_agent.shared.bus.buckets import BucketEntry, Buckets
from sematext_agent.shared.bus.client import Msg, TolerantClient
from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.bus.publisher import PublishAck, Publisher
from sematext_agent.shared.bus.puller import Message, Puller
from sematext_agent.shared.bus.requests import Requester, Unsubscribe
from sematext_agent.shared.retry import Backoff, Uniform, retry
from sematext_agent.shared.settings import ServiceSettings

log = logging.getLogger(__name__)

_UNREPORTED_FAILURES = 5


class Bus:
    """One connection to the broker, for the life of a process. Made by `connect`."""

    def __init__(self, client: TolerantClient, uniform: Uniform | None = None) -> None:
        """Take a `client` that is not connected; `uniform` is for the backoffs."""
        self._client = client
        self._connection = Connection(client, uniform)
        self._publisher = Publisher(self._connection)
        self._buckets = Buckets(client)
        self._requester = Requester(self._connection)
        self._manager = client.jetstream()
        self.on_connection: Callable[[bool], None] = lambda up: None
        """Called when the broker goes away (False) and when it comes back (True)."""
        self.on_problem: Callable[[str], None] = lambda text: log.warning("%s", text)
        """Called with a problem that only a person can solve, such as a missing permission."""
        self._connection.on_change = lambda up: self.on_connection(up)
        self._connection.on_problem = lambda text: self.on_problem(text)

    async def open(self, settings: ServiceSettings, name: str) -> None:
        """Connect, and let publishes through."""
        await self._connection.open(settings, name)
        await self._publisher.start()
        self._connection.connected.set()

    @property
    def is_connected(self) -> bool:
        """True while the broker is in reach, and everybody knows of it."""
        return self._client.is_connected and self._connection.connected.is_set()

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        """Call `callback` after each reconnect."""
        self._connection.reconnect_callbacks.append(callback)

    @property
    def reconnected_at(self) -> float:
        """Seconds of the loop's clock at the last reconnect; minus infinity before the first."""
        return self._connection.reconnected_at

    async def wait_until_connected(self) -> None:
        """Wait until the broker is in reach."""
        await self._connection.connected.wait()

    @property
    def manager(self) -> Any:
        """nats-py's JetStream management, with which tests prepare and inspect streams."""
        return self._manager

    async def watch_connection(self) -> None:
        """Watch the client; never return. Raises ConnectionLost once it is of no use."""
        await self._connection.watch()

    # Streams

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> PublishAck:
        """Publish once and wait for the stream's acknowledgement.

        `headers` are ASCII texts of one line each; the id becomes one more of them.

        Raises:
            PublishTimeout: none came in time. Publish again with the same id: the stream keeps
                one copy.
            JetStreamError: the stream answered with an error.
        """
        return await (await self._publisher.begin_publish(subject, payload, message_id, headers))

    def begin_publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> Coroutine[Any, Any, asyncio.Future[PublishAck]]:
        """Publish once and return the future of the acknowledgement: see `Publisher`.

        The same as `publish`, for a caller with many publishes in flight.
        """
        return self._publisher.begin_publish(subject, payload, message_id, headers)

    def create_puller(self, stream: str, consumer: str, window: int, domain: str = "") -> Puller:
        """Return the messages of a durable consumer, at most `window` of them ahead."""
        return Puller(self._connection, stream, consumer, window, domain)

    async def acknowledge(self, message: Message, reply: str = "") -> None:
        """Have the stream forget `message`, or at least never deliver it again.

        The stream confirms that to the subject `reply`, if there is one.
        """
        await self._respond(message, b"+ACK", reply)

    async def extend_ack_deadline(self, message: Message) -> None:
        """Start the ack deadline of `message` anew."""
        await self._respond(message, b"+WPI")

    async def negative_acknowledge(self, message: Message, seconds: float = 0) -> None:
        """Have the stream deliver `message` again, to anyone, after `seconds`."""
        delay = b' {"delay": %d}' % int(seconds * 1e9) if seconds else b""
        await self._respond(message, b"-NAK" + delay)

    async def _respond(self, message: Message, response: bytes, reply: str = "") -> None:
        # A response that is lost with the connection costs a redelivery, never an event. The client
        # would keep it for its next connection: see `TolerantClient.discard_pending`.
        if not self._connection.connected.is_set():
            return
        with contextlib.suppress(nats.errors.Error):
            await self._client.publish(message.reply, response, reply)

    async def request_api(
        self, call: str, request: dict[str, Any] | None = None, domain: str = ""
    ) -> dict[str, Any]:
        """Send one request to JetStream's own API, `$JS.API.<call>`, and return its answer.

        For the owner of the streams, also of a leaf node's (`domain`). Waits while the broker is
        away.

        Raises:
            JetStreamError: JetStream answered with an error; its code is 404 for a thing that does
                not exist.
            BusError: no answer came.
        """
        return await self._requester.request_api(call, request, domain)

    # Live messages

    async def send(self, subject: str, payload: bytes, reply: str = "") -> None:
        """Send a message at most once; answers to it, if any, go to `reply`."""
        await self._client.publish(subject, payload, reply=reply)

    def new_inbox(self) -> str:
        """Return a new subject for answers to this process alone."""
        return self._client.new_inbox()

    async def subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]]
    ) -> Unsubscribe:
        """Hand every live message on `subject` to `handler`; return the way to end it."""
        return await self._requester.subscribe(subject, handler)

    async def request(self, subject: str, payload: bytes, seconds: float) -> bytes | None:
        """Return the first answer on `subject`, or None after `seconds` without one."""
        return await self._requester.request(subject, payload, seconds)

    async def request_all(self, subject: str, seconds: float) -> list[bytes]:
        """Return the answers of everyone who listens on `subject`, after `seconds`."""
        return await self._requester.request_all(subject, seconds)

    async def reply(self, request: Msg, payload: bytes) -> None:
        """Answer `request`, if its sender waits for that."""
        await self._requester.reply(request, payload)

    # Buckets

    async def get(self, bucket: str, key: str, domain: str = "") -> bytes | None:
        """Return the value of `key`, or None where there is none. Raises BusError."""
        return (await self.get_entry(bucket, key, domain)).value

    async def get_entry(self, bucket: str, key: str, domain: str = "") -> BucketEntry:
        """Return the value of `key` and its revision. Raises BusError where it is unreadable."""
        return await self._buckets.get_entry(bucket, key, domain)

    async def put(self, bucket: str, key: str, value: bytes) -> None:
        """Store `value` under `key`. Raises BusError where that is not possible now."""
        await self._buckets.put(bucket, key, value)

    async def replace(self, bucket: str, key: str, value: bytes, revision: int) -> int:
        """Store `value` in place of `revision`, and return the new revision.

        Raises:
            RevisionConflict: the key is at another revision.
            BusError: it is not possible now, or no acknowledgement came.
        """
        return await self._buckets.replace(bucket, key, value, revision)

    async def keys(self, bucket: str, domain: str = "") -> list[str]:
        """Return the keys of a bucket. Raises BusError where it is unreadable now."""
        return await self._buckets.keys(bucket, domain)

    async def wait_until_ready(self, *buckets: str) -> None:
        """Wait until the forwarder has created the streams and `buckets`; log a long wait once."""
        backoff = Backoff(0.1, 2, self._connection.uniform)

        async def open_all() -> None:
            for bucket in buckets:
                await self._buckets.open(bucket)

        def report(_: Exception) -> None:
            if backoff.failures == _UNREPORTED_FAILURES:
                log.info("waiting for the streams: the forwarder creates them (start it)")

        await retry(open_all, nats.errors.Error, backoff, report)

    # End

    async def flush(self) -> None:
        """Wait until the broker has everything sent so far, for a few seconds at most."""
        with contextlib.suppress(nats.errors.Error, TimeoutError):
            await self._client.flush(timeout=2)

    async def close(self) -> None:
        """Send the rest and close. `drain` of the client is not used: it can hang."""
        await self.flush()
        with contextlib.suppress(nats.errors.Error, OSError):
            await self._client.close()


async def connect(
    settings: ServiceSettings,
    name: str,
    client: Callable[[], TolerantClient] = TolerantClient,
    uniform: Uniform | None = None,
) -> Bus:
    """Connect to the broker, waiting for as long as it takes, and reconnect for ever.

    `client` and `uniform` are replaced by a simulation: see `shared.retry.Backoff`.

    Raises:
        SettingsError: the address, or a file of keys and certificates, cannot be used at all.
    """
    bus = Bus(client(), uniform)
    await bus.open(settings, name)
    return bus
