"""Publishing to a stream, with acknowledgements that cannot be lost sight of.

`publish_async` of nats-py 2.16 leaves its futures pending for ever after an error acknowledgement
or a lost server. Here every publish has a deadline.
"""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

import msgspec
import nats.errors

from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.bus.errors import BusError, JetStreamError, PublishTimeout
from sematext_agent.shared.decode_errors import DECODE_ERRORS

ACKNOWLEDGEMENT_SECONDS_MAX = 5.0
"""Deadline of an acknowledgement, after which the publish counts as lost."""


class PublishAck(msgspec.Struct, frozen=True):
    """JetStream's acknowledgement that a message is stored."""

    seq: int
    """The message's number in the stream."""
    duplicate: bool = False
    """True where the id was stored before, and this copy was not."""


class _PublishAnswer(msgspec.Struct):
    seq: int = 0
    duplicate: bool = False
    error: dict[str, Any] | None = None


_decoder = msgspec.json.Decoder(_PublishAnswer)


def decode_publish_answer(payload: bytes, header: bytes) -> PublishAck | BusError:
    """Return the outcome of a publish, by the message that answers it."""
    if header and header.startswith(b"NATS/1.0 503"):
        return JetStreamError(503, "no stream takes this subject")
    try:
        reply = _decoder.decode(payload)
    except DECODE_ERRORS as error:
        return PublishTimeout(f"the acknowledgement cannot be decoded: {error}")
    if refusal := reply.error:
        description = refusal.get("description", "refused without a reason")
        return JetStreamError(refusal.get("code", 0), description)
    if reply.seq < 1:  # JetStream counts from 1: without a number nothing is known to be stored
        return PublishTimeout("the acknowledgement has no sequence")
    return PublishAck(reply.seq, reply.duplicate)


class Publisher:
    """The publishes that wait for their acknowledgements.

    Each has a token, which ends the subject of its answer. Every publish has the same time, so the
    oldest pending one is always the next to expire, and one timer serves all.
    """

    def __init__(self, connection: Connection) -> None:
        """Publish over `connection`, once `start` has subscribed to the acknowledgements."""
        self._connection = connection
        self._client = connection.client
        self._inbox = ""
        self._tokens = itertools.count(1)
        self._pending: dict[str, tuple[asyncio.Future[PublishAck], float, str]] = {}
        """By token: the outcome, its deadline by the loop's clock, and the subject."""
        self._timer: asyncio.TimerHandle | None = None
        connection.disconnect_callbacks.append(self._fail_all)
        connection.on_forbidden_publish = self._fail_subject

    async def start(self) -> None:
        """Subscribe to the acknowledgements; the client must be connected, as it names inboxes."""
        self._inbox = self._client.new_inbox()
        await self._client.subscribe_direct(f"{self._inbox}.*", self.on_answer)

    async def begin_publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> asyncio.Future[PublishAck]:
        """Publish once and return the future of the acknowledgement, or of the error.

        It costs neither a task nor a timer of its own. Waits first while the broker is away, so
        that nothing is kept in a buffer of the client.
        """
        connected = self._connection.connected
        if not connected.is_set():
            await connected.wait()
        loop = asyncio.get_running_loop()
        token = str(next(self._tokens))
        outcome: asyncio.Future[PublishAck] = loop.create_future()
        self._pending[token] = outcome, loop.time() + ACKNOWLEDGEMENT_SECONDS_MAX, subject
        if self._timer is None:
            self._timer = loop.call_later(ACKNOWLEDGEMENT_SECONDS_MAX, self._expire)
        try:
            reply = f"{self._inbox}.{token}"
            if headers:
                headers = {**headers, "Nats-Msg-Id": message_id}
                await self._client.publish(subject, payload, reply, headers)
            else:
                await self._client.publish_with_id(subject, payload, reply, message_id)
        except nats.errors.Error as error:
            self._settle(token, PublishTimeout(str(error)))
        return outcome

    def on_answer(self, subject: bytes, payload: bytes, header: bytes) -> None:
        """Settle the publish that the message answers."""
        token = subject.rpartition(b".")[2].decode(errors="replace")
        self._settle(token, decode_publish_answer(payload, header))

    def _settle(self, token: str, outcome: PublishAck | BusError) -> None:
        """Set the outcome of a publish, unless it has one or nobody waits for it any more."""
        future, _, _ = self._pending.pop(token, (None, 0.0, ""))
        if future is None or future.done():
            return
        if isinstance(outcome, PublishAck):
            future.set_result(outcome)
        else:
            future.set_exception(outcome)

    def _expire(self) -> None:
        """Fail the publishes whose deadline has passed."""
        loop = asyncio.get_running_loop()
        self._timer = None
        for token, (_, deadline, _) in list(self._pending.items()):
            if deadline > loop.time():
                self._timer = loop.call_at(deadline, self._expire)
                break
            self._settle(token, PublishTimeout("no acknowledgement in time"))

    def _fail_all(self) -> None:
        """Fail every pending publish, as its acknowledgement went with the connection."""
        for token in list(self._pending):
            self._settle(token, PublishTimeout("the broker went away"))

    def _fail_subject(self, subject: str, problem: str) -> None:
        """Fail the pending publishes on `subject`, which is in small letters."""
        for token, (_, _, pending_subject) in list(self._pending.items()):
            if pending_subject.lower() == subject:
                self._settle(token, PublishTimeout(problem))
