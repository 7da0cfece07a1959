"""The cheapest possible receiver, in a process of its own, for benchmarks."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from multiprocessing.sharedctypes import Synchronized

_ANSWER = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


class _Counting(asyncio.Protocol):
    """The cheapest possible receiver: it counts complete requests and answers each with 200."""

    def __init__(self, count: Synchronized[int], look: Callable[[bytes], None] | None) -> None:
        self._count = count
        self._look = look
        self._received = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._received += data
        head_end = self._received.find(b"\r\n\r\n")
        while head_end >= 0:
            head = self._received[:head_end].lower()
            length = int(head.split(b"content-length:")[1].split(b"\r\n")[0])
            if len(self._received) < head_end + 4 + length:
                return
            if self._look is not None:
                self._look(self._received[head_end + 4 : head_end + 4 + length])
            self._received = self._received[head_end + 4 + length :]
            self._count.value += 1
            self._transport.write(_ANSWER)
            head_end = self._received.find(b"\r\n\r\n")


def receive(
    port: int, count: Synchronized[int], look: Callable[[bytes], None] | None = None
) -> None:
    """Run the receiver's process, and call `look` with every document."""

    async def serve() -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(
            lambda: _Counting(count, look), "127.0.0.1", port, backlog=512
        )
        await server.serve_forever()

    asyncio.run(serve())
