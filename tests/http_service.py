"""A service's HTTP port within a test, its clients, and a limit on descriptors."""

from __future__ import annotations

import asyncio
import contextlib
import resource
from collections.abc import Callable, Iterator

from sematext_agent.shared import listener
from sematext_agent.shared.http_server import HttpServer

REQUEST = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"
CONNECTIONS_MAX = 4


class Client:
    """A connection of a test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self.writer = writer

    async def read(self) -> bytes:
        """Return everything until the service closes the connection."""
        async with asyncio.timeout(10):
            try:
                return await self._reader.read()
            except ConnectionResetError:
                return b""

    async def request(self, content: bytes = REQUEST) -> bytes:
        """Send `content`; return the answer."""
        self.writer.write(content)
        return await self.read()


class Service:
    """The listener with an app behind it."""

    def __init__(self, build: Callable[[], HttpServer]) -> None:
        self.builds = 0
        self._build = build
        self._socket = listener.listen("127.0.0.1", 0)
        self.port = self._socket.getsockname()[1]
        self.clients: list[Client] = []
        self.task = asyncio.create_task(listener.serve(self._socket, self.build, CONNECTIONS_MAX))

    def build(self) -> HttpServer:
        self.builds += 1
        return self._build()

    async def connect(self) -> Client:
        client = Client(*await asyncio.open_connection("127.0.0.1", self.port))
        self.clients.append(client)
        return client

    async def request(self, content: bytes = REQUEST) -> bytes:
        return await (await self.connect()).request(content)

    async def stop(self) -> None:
        for client in self.clients:
            client.writer.close()
            with contextlib.suppress(OSError):
                await client.writer.wait_closed()
        self.task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self.task


@contextlib.contextmanager
def limited_descriptors(limit: int) -> Iterator[None]:
    """Limit the descriptors of this process."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def open_files(opened: contextlib.ExitStack, count: int) -> None:
    """Open `count` files until the end of the stack."""
    for _ in range(count):
        opened.enter_context(open("/dev/null"))  # noqa: SIM115 - the stack closes it


def find_lowest_free_descriptor() -> int:
    with open("/dev/null") as file:
        return file.fileno()
