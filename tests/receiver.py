"""An event receiver for tests, with scripted faults, that keeps all requests."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
import ssl
import struct
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal

TOKEN = "c4nary-70ken-0f-7he-1nfra-app"
"""The token of tests, which may stand in the path of a request and nowhere else."""


How = Literal[
    "answer",
    "hang",
    "cut",
    "reset",
    "half-close",
    "garbage",
    "truncate",
    "drip",
    "drip-body",
    "flood",
    "close",
]


@dataclass(frozen=True)
class Request:
    """A received request."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The decoded body, which is JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass(frozen=True)
class Reply:
    """The receiver's reaction to a request. With a status of 2xx it first stores the document."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    how: How = "answer"
    """`hang`: never answers. `cut`: closes without an answer. `reset`: the same with a TCP reset.
    `half-close`: ends its own side without an answer, and reads on. `garbage`: answers with bytes
    that are not HTTP. `truncate`: closes within the answer's body. `drip`: sends the answer byte
    for byte. `drip-body`: the same with the body alone. `flood`: sends an endless body. `close`:
    answers and closes."""
    seconds: float = 0.0
    """Delay before the answer."""
    stores: bool | None = None
    """Whether the document is stored; by default the status decides."""


class Receiver:
    """A receiver that listens on `url` within `async with Receiver() as receiver`."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        """Takes effect at the next `open`; a new certificate, with the next connection."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests: list[Request] = []
        self.stored: Counter[str] = Counter()
        """Number of times that a document was stored, by its `event.id`."""
        self.unanswered: Counter[str] = Counter()
        """The same for documents whose answer may not have arrived: there was no answer, or no
        further request on the connection."""
        self.documents: list[dict[str, Any]] = []
        """Stored documents in their order."""
        self.replies: deque[Reply] = deque()
        """Replies to the next requests, one each; after them `reply` applies."""
        self.reply: Reply | Callable[[Request], Reply] = Reply()
        self.in_flight = self.in_flight_most = 0

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def __aenter__(self) -> Receiver:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Listen; after a `close` on the same port again."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """End every connection and stop listening."""
        assert self._server is not None
        self._server.close()
        for writer in self._connections:
            writer.transport.abort()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with contextlib.suppress(asyncio.CancelledError):
            await self._server.wait_closed()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        self._connections.add(writer)
        stored: list[str] = []
        try:
            while True:
                request = await _read(reader)
                self.unanswered.subtract(stored)
                self.in_flight += 1
                self.in_flight_most = max(self.in_flight_most, self.in_flight)
                try:
                    reply = self._script(request)
                    stored = self._store(request, reply)
                    if not await self._answer(reply, reader, writer):
                        return
                finally:
                    self.in_flight -= 1
        except (asyncio.IncompleteReadError, OSError, asyncio.CancelledError):
            return
        finally:
            self._tasks.discard(task)
            self._connections.discard(writer)
            writer.close()

    def _script(self, request: Request) -> Reply:
        self.requests.append(request)
        scripted = self.replies.popleft() if self.replies else self.reply
        return scripted(request) if callable(scripted) else scripted

    def _store(self, request: Request, reply: Reply) -> list[str]:
        """Store the document unless the reply forbids it; return its id if its answer may fail."""
        if not (reply.stores if reply.stores is not None else 200 <= reply.status < 300):
            return []
        document = request.document
        event = document["event.id"]
        self.stored[event] += 1
        self.documents.append(document)
        if reply.how == "close":
            return []
        self.unanswered[event] += 1
        return [event]

    async def _answer(
        self, reply: Reply, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Send the reply; return whether the connection stays open."""
        if reply.seconds:
            await asyncio.sleep(reply.seconds)
        match reply.how:
            case "hang":
                await asyncio.Event().wait()
            case "cut":
                return False
            case "half-close":
                writer.write_eof()
                await reader.read()
                return False
            case "reset":
                connection = writer.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                writer.transport.abort()
                return False
            case "garbage":
                writer.write(b"\x00\xff\x00 this is not HTTP \r\n\r\n" * 20)
                await writer.drain()
                return False
            case "flood":
                writer.write(f"HTTP/1.1 {reply.status} Whatever\r\n\r\n".encode())
                while True:
                    writer.write(b"x" * 65536)
                    await writer.drain()
        answer = _encode(reply)
        if reply.how in ("drip", "drip-body"):
            whole = len(answer) - len(reply.body) if reply.how == "drip-body" else 0
            writer.write(answer[:whole])
            for byte in answer[whole:]:
                writer.write(bytes([byte]))
                await asyncio.sleep(0.2)
            return False
        writer.write(answer[: -len(reply.body) // 2] if reply.how == "truncate" else answer)
        await writer.drain()
        return reply.how == "answer"


async def _read(reader: asyncio.StreamReader) -> Request:
    head = (await reader.readuntil(b"\r\n\r\n")).decode()
    first, *lines = head.split("\r\n")
    method, path, _ = first.split(" ")
    headers = {}
    for line in filter(None, lines):
        name, _, value = line.partition(":")
        headers[name.lower()] = value.strip()
    body = await reader.readexactly(int(headers.get("content-length", 0)))
    return Request(method, path, headers, body)


def _encode(reply: Reply) -> bytes:
    headers = {"Content-Type": "application/json", "Content-Length": str(len(reply.body))}
    lines = [f"{name}: {value}" for name, value in {**headers, **reply.headers}.items()]
    head = "\r\n".join([f"HTTP/1.1 {reply.status} Whatever", *lines, "", ""])
    return head.encode() + reply.body
