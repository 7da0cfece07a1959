"""nats-py's client, made to outlive whatever a message holds.

A message whose subject or header cannot be decoded ends the reader of nats-py 2.16 for good, while
it still reports itself connected (nats.py#914). Stored in a stream, such a message comes again at
every redelivery. The server checks neither subjects nor headers.
"""

from __future__ import annotations

import asyncio
import logging
import re
import sys
from typing import Any

# Where aiohttp is installed, nats-py imports it for websockets, which are not used here: it would
# cost every service 10 MB and 0.1 s. Absent for the moment of the import, it is there afterwards.
_aiohttp = sys.modules.get("aiohttp")
sys.modules["aiohttp"] = None  # type: ignore[assignment]

import nats.errors
import nats.protocol.parser
from nats.aio.client import Client
from nats.aio.msg import Msg

del sys.modules["aiohttp"]
if _aiohttp is not None:
    sys.modules["aiohttp"] = _aiohttp

__all__ = ["Client", "Msg", "TolerantClient"]

log = logging.getLogger(__name__)

# The client's own patterns end a token at \v and \f too, which the server lets stand in a subject.
# Such a message would be a protocol error, and stored in a stream it would be one for ever.
nats.protocol.parser.MSG_RE = re.compile(
    rb"\AMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)\r\n"
)
nats.protocol.parser.HMSG_RE = re.compile(
    rb"\AHMSG[ \t]+([^ \t\r\n]+)[ \t]+([^ \t\r\n]+)[ \t]+(([^ \t\r\n]+)[ \t]+)?(\d+)[ \t]+(\d+)\r\n"
)


# The whole header of nearly every message: to read it here saves the forwarder 5 % of its CPU.
_only_an_id = re.compile(rb"NATS/1\.0\r\nNats-Msg-Id: ([!-~]+)\r\n\r\n")


class TolerantClient(Client):
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

    async def request(self, *arguments: Any, **options: Any) -> Msg:
        """As the client's own, but it can be cancelled.

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
            log.debug("skipped a header that cannot be decoded: %s", error)
            return None
