"""An event receiver for tests, which misbehaves on command and keeps what it was sent."""

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
"""The token that tests use: it must be found nowhere but in a request's path."""


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
    """One request as it came."""

    method: str
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def document(self) -> dict[str, Any]:
        """The body, which is JSON."""
        document: dict[str, Any] = json.loads(self.body)
        return document


@dataclass(frozen=True)
class Reply:
    """What the receiver does with one request. A status of 2xx stores the document first."""

    status: int = 200
    body: bytes = b"{}"
    headers: dict[str, str] = field(default_factory=dict)
    how: How = "answer"
    """`hang`: says nothing. `cut`: closes without a word. `reset`: the same with a TCP reset.
    `half-close`: ends its own side without a word, and reads on. `garbage`: answers what is no
    HTTP. `truncate`: closes within the answer's body. `drip`: sends the answer byte for byte.
    `drip-body`: the same with the body alone. `flood`: sends a body without end. `close`: answers
    and closes."""
    seconds: float = 0.0
    """How long it takes its time before."""
    stores: bool | None = None
    """Whether the document is stored; by default as the status says."""


class Receiver:
    """`async with Receiver() as receiver`: listens on `receiver.url` until the block ends."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self.tls = tls
        """Counts from the next `open` on; its certificate, from the next connection on."""
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.port = 0
        self.requests: list[Request] = []
        self.stored: Counter[str] = Counter()
        """By `event.id`: how often the document was stored."""
        self.unanswered: Counter[str] = Counter()
        """The same, of those whose answer is not known to have come: it was none, or no other
        request followed on the connection."""
        self.documents: list[dict[str, Any]] = []
        """Those stored, in their order."""
        self.replies: deque[Reply] = deque()
        """For the next requests, one each; after them `reply` counts."""
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
        """Listens; after a `close` on the same port again."""
        self._server = await asyncio.start_server(
            self._serve, "127.0.0.1", self.port, ssl=self.tls, backlog=512
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Ends every connection and listens no more."""
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
        """Stores the document where the script says so; returns its id, if its answer may fail."""
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
        """Does what the script says; whether the connection stays open."""
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
                writer.write(b"\x00\xff\x00 this is no HTTP \r\n\r\n" * 20)
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
