"""The client of nats-py, made to outlive any content of a message.

A message whose subject or header cannot be decoded ends the reader of nats-py 2.16 for good, while
it still reports itself connected (nats.py#914). Stored in a stream, such a message returns with
every redelivery. The server checks neither subjects nor headers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from collections.abc import Callable
from typing import Any

# Where aiohttp is installed, nats-py imports it for websockets, which are not used here and would
# cost every service 10 MB and 0.1 s. So it is hidden during the import.
_aiohttp = sys.modules.get("aiohttp")
sys.modules["aiohttp"] = None  # type: ignore[assignment]

import nats.errors
import nats.protocol.parser
from nats.aio.client import Client
from nats.aio.msg import Msg

from sematext_agent.shared.bus.problems import NO_TLS

del sys.modules["aiohttp"]
if _aiohttp is not None:
    sys.modules["aiohttp"] = _aiohttp

__all__ = ["Client", "Msg", "TolerantClient"]

log = logging.getLogger(__name__)

# The client's own patterns end a token at \v and \f too, which the server allows in a subject.
# Stored in a stream, such a message would be a protocol error at every redelivery.
nats.protocol.parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
nats.protocol.parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


DirectHandler = Callable[[bytes, bytes, bytes], None]
"""A handler of a message's subject, payload and header; it raises nothing."""

# ASCII that is neither white space nor, in a subject, a wildcard.
_plain = re.compile(r"[!-)+-=?-~]+")
# The whole header of nearly every message; parsing it here saves the forwarder 5 % of its CPU.
_only_an_id = re.compile(rb"NATS/1\.0\r\nNats-Msg-Id: ([!-~]+)\r\n\r\n")


class TolerantClient(Client):
    """A client whose reader outlives any content of a message.

    It also has a short path for a publish and its acknowledgement, which each event needs: on the
    client's own path both cost at least half as much again.
    """

    def __init__(self) -> None:
        """Begin without a connection."""
        super().__init__()
        self._direct: dict[int, DirectHandler] = {}

    async def subscribe_direct(self, subject: str, handler: DirectHandler) -> None:
        """Hand every message on `subject` to `handler` at once, without a task or a queue."""

        async def ignore(_: Msg) -> None:
            """Do nothing: `_process_msg` has handed the message to `handler` instead."""

        # The client's own subscription, so that the client renews it after a reconnect.
        subscription = await self.subscribe(subject, cb=ignore)
        self._direct[subscription._id] = handler  # noqa: SLF001

    async def _process_msg(
        self, sid: int, subject: bytes, reply: bytes, data: bytes, headers: bytes
    ) -> None:
        handler = self._direct.get(sid)
        if handler is None:
            await super()._process_msg(sid, subject, reply, data, headers)
        else:
            handler(subject, data, headers)

    async def publish_with_id(
        self, subject: str, payload: bytes, reply: str, message_id: str
    ) -> None:
        """Publish with the one header `Nats-Msg-Id`.

        Raises:
            nats.errors.Error: it cannot be published.
        """
        plain = _plain.fullmatch(subject) and _plain.fullmatch(message_id)
        if not plain or not self.is_connected or len(payload) > self.max_payload:
            # The client's own path raises the right error.
            await self.publish(subject, payload, reply, {"Nats-Msg-Id": message_id})
            return
        header = f"NATS/1.0\r\nNats-Msg-Id: {message_id}\r\n\r\n"
        sizes = f"{len(header)} {len(header) + len(payload)}"
        head = f"HPUB {subject} {reply} {sizes}\r\n{header}"
        await self._send_command(b"%b%b\r\n" % (head.encode(), payload))
        if self._flush_queue is not None and self._flush_queue.empty():
            await self._flush_pending()

    def discard_pending(self) -> None:
        """Discard what waits to be written: the client would send it over its next connection.

        There an acknowledgement could settle another message, where the server has put its store
        back to a copy. Whoever publishes or requests has a deadline, and tries again.
        """
        self._pending.clear()
        self._pending_data_size = 0

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

    def _connect_command(self) -> bytes:
        """Return the login, but only to a server with TLS where the settings ask for it.

        nats-py goes by the server alone, and would send the password to a server without TLS.
        """
        if "tls" in self.options and not self._server_info.get("tls_required"):
            raise nats.errors.Error(NO_TLS)
        return super()._connect_command()

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """Send a request as the client does, but keep a cancellation.

        The client waits with `asyncio.wait_for`, which up to Python 3.11 loses a cancellation that
        comes together with the answer: the task would go on, and its group wait for it for ever.
        """
        try:
            return await super().request(*arguments, **options)
        finally:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError

    async def _process_headers(self, headers: bytes) -> dict[str, str] | None:
        only_id = _only_an_id.fullmatch(headers or b"")
        if only_id is not None:
            return {"Nats-Msg-Id": only_id[1].decode()}
        try:
            return await super()._process_headers(headers)
        except (ValueError, IndexError, nats.errors.Error) as error:
            log.debug("skipped a header: it cannot be decoded: %s", error)
            return None
