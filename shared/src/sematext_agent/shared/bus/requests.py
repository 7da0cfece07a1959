"""Requests and their replies on the bus."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
import nats.errors

from sematext_agent.shared.bus import publisher
from sematext_agent.shared.bus.client import Msg
from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.bus.errors import BusError, JetStreamError
from sematext_agent.shared.bus.puller import api_prefix
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.subjects import INBOX_PREFIX, RELAYED_REPLY_PREFIX

Unsubscribe = Callable[[], Awaitable[None]]


class Requester:
    """Requests to whoever listens on a subject, and to JetStream."""

    def __init__(self, connection: Connection) -> None:
        """Send and listen over `connection`."""
        self._connection = connection
        self._client = connection.client

    async def request_api(
        self, call: str, request: dict[str, Any] | None, domain: str
    ) -> dict[str, Any]:
        """Send one request to `$JS.API.<call>` and return its answer: JSON both ways."""
        await self._connection.connected.wait()
        payload = b"" if request is None else msgspec.json.encode(request)
        subject = f"{api_prefix(domain)}.{call}"
        seconds = publisher.ACKNOWLEDGEMENT_SECONDS_MAX
        try:
            message = await self._client.request(subject, payload, timeout=seconds)
            answer: dict[str, Any] = msgspec.json.decode(message.data, type=dict)
        except (nats.errors.Error, TimeoutError, *DECODE_ERRORS) as error:
            raise BusError(f"no answer to {call}: {error}") from error
        if refusal := answer.get("error"):
            raise JetStreamError(refusal.get("code", 0), refusal.get("description", "refused"))
        return answer

    async def request(self, subject: str, payload: bytes, seconds: float) -> bytes | None:
        """Return the first answer to a request, or None after `seconds` without one."""
        try:
            return (await self._client.request(subject, payload, timeout=seconds)).data
        except (nats.errors.Error, TimeoutError):
            return None

    async def request_all(self, subject: str, seconds: float) -> list[bytes]:
        """Return every answer to an empty request that arrives within `seconds`."""
        answers: list[bytes] = []
        inbox = self._client.new_inbox()

        async def collect(message: Msg) -> None:
            if (message.headers or {}).get("Status") != "503":
                answers.append(message.data)

        unsubscribe = await self.subscribe(inbox, collect)
        await self._client.publish(subject, b"", reply=inbox)
        await asyncio.sleep(seconds)
        await unsubscribe()
        return answers

    async def reply(self, request: Msg, payload: bytes) -> None:
        """Answer `request`, if its sender waits for that.

        Only to an inbox: the sender names the subject of the answer, which must not be an event.
        """
        if request.reply.startswith((INBOX_PREFIX, RELAYED_REPLY_PREFIX)):
            await self._client.publish(request.reply, payload)

    async def subscribe(
        self, subject: str, handler: Callable[[Msg], Awaitable[None]]
    ) -> Unsubscribe:
        """Hand every live message on `subject` to `handler`; return the way to end it."""
        subscription = await self._client.subscribe(subject, cb=handler)

        async def unsubscribe() -> None:
            with contextlib.suppress(nats.errors.Error):
                await subscription.unsubscribe()

        return unsubscribe
