"""The HTTP socket of a service: connections within limits, a server imported at the first request.

FastAPI and its server cost 20 MB and half a second, and on a plain machine there may never be a
request: `agentctl status` sends its own over the bus.

Whoever reaches the port can open connections without end, while delivery lives on the descriptors
and the time of the same process. So a connection bears one request, and reaches the server only
once that has arrived whole: until then it is a socket with a deadline, and the oldest of them makes
way for a new one.
"""

from __future__ import annotations

import asyncio
import logging
import resource
import socket
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

from sematext_agent.shared.incoming_request import IncomingRequest

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer, OneRequestProtocol

log = logging.getLogger(__name__)

CONNECTIONS_MAX = 16
BATCH_SECONDS = 0.05
"""Pause after every `connections_max` connections, or requests in a row could take all the time."""
EXHAUSTED_SECONDS = 1.0
"""Pause when descriptors run out."""
UNREAD_MILLISECONDS_MAX = 30_000
"""Time after which a client that takes nothing of its answer is disconnected."""


def listen(host: str, port: int) -> socket.socket:
    """Return a socket that listens on `host` and `port` (0: any free one). Raises OSError."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen()
    except OSError:
        listener.close()
        raise
    return listener


async def serve(
    listener: socket.socket,
    build: Callable[[], HttpServer],
    connections_max: int = CONNECTIONS_MAX,
) -> None:
    """Serve on `listener`, from the first request on, the server that `build` returns.

    Runs until cancelled. `build` runs in a thread, so that events go on while it imports.
    """
    async with asyncio.TaskGroup() as tasks:
        gate = ConnectionGate(listener, build, connections_max, tasks)
        try:
            gate.resume()
            await asyncio.get_running_loop().create_future()
        finally:
            await gate.close()


class ConnectionGate:
    """The connections of a listener: accepted within limits, and handed on with their request."""

    def __init__(
        self,
        listener: socket.socket,
        build: Callable[[], HttpServer],
        connections_max: int,
        tasks: asyncio.TaskGroup,
    ) -> None:
        """Take what `serve` is given; every answer is one of `tasks`."""
        self._listener = listener
        self._build = build
        self._connections_max = connections_max
        self._tasks = tasks
        self._loop = asyncio.get_running_loop()
        self._incoming: dict[IncomingRequest, None] = {}
        """The oldest first."""
        self._answers = 0
        self._remaining = 0
        """Connections to accept before the next pause."""
        self._server: asyncio.Task[HttpServer] | None = None
        self._resumption: asyncio.TimerHandle | None = None
        self._descriptors_max = _read_descriptors_max()
        listener.setblocking(False)

    def resume(self) -> None:
        """Accept `connections_max` connections from here on."""
        self._remaining = self._connections_max
        self._loop.add_reader(self._listener, self._accept)

    async def close(self) -> None:
        """End every connection; what is being answered has two seconds."""
        self._pause(None)
        self._listener.close()
        for request in list(self._incoming):
            request.close()
        if self._server is not None and self._server.done():
            await self._server.result().shutdown()

    def _pause(self, seconds: float | None) -> None:
        self._loop.remove_reader(self._listener)
        if self._resumption is not None:
            self._resumption.cancel()
        if seconds is not None:
            self._resumption = self._loop.call_later(seconds, self.resume)

    def _accept(self) -> None:
        while self._remaining and self._answers < self._connections_max:
            try:
                connection = self._listener.accept()[0]
            except BlockingIOError:
                return
            except OSError as error:
                self._on_exhausted(str(error.strerror))
                return
            # The kernel gives out the lowest free descriptor, so the number says how many are used.
            if connection.fileno() >= self._descriptors_max:
                connection.close()
                self._on_exhausted("the rest is for the broker and the receiver")
                return
            self._remaining -= 1
            self._take(connection)
        self._pause(BATCH_SECONDS)

    def _on_exhausted(self, reason: str) -> None:
        log.warning(
            "too few free descriptors for a connection to port %d: %s (raise the limit of open "
            "files, or look who opens so many)",
            self._listener.getsockname()[1],
            reason,
        )
        self._pause(EXHAUSTED_SECONDS)

    def _take(self, connection: socket.socket) -> None:
        if len(self._incoming) + self._answers >= self._connections_max:
            log.warning(
                "more than %d connections to port %d: the oldest without a request is closed "
                "(look who opens them)",
                self._connections_max,
                self._listener.getsockname()[1],
            )
            next(iter(self._incoming)).close()
        if hasattr(socket, "TCP_USER_TIMEOUT") and connection.family != socket.AF_UNIX:
            connection.setsockopt(
                socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNREAD_MILLISECONDS_MAX
            )
        request = IncomingRequest(connection, self._on_complete, self._incoming.pop)
        self._incoming[request] = None

    def _on_complete(self, request: IncomingRequest) -> None:
        del self._incoming[request]
        self._answers += 1
        self._tasks.create_task(self._answer(request), name="answer")

    async def _answer(self, request: IncomingRequest) -> None:
        """Hand the connection to the server, and wait until it is closed."""
        try:
            protocol = await self._hand_over(request)
            await protocol.closed.wait()
        finally:
            self._answers -= 1

    async def _hand_over(self, request: IncomingRequest) -> OneRequestProtocol:
        try:
            if self._server is None:
                build = asyncio.to_thread(self._build)
                self._server = self._tasks.create_task(build, name="http server")
            server = await asyncio.shield(self._server)
        except BaseException:
            request.connection.close()
            raise
        create_protocol = partial(server.create_protocol, bytes(request.content))
        _, protocol = await self._loop.connect_accepted_socket(create_protocol, request.connection)
        return protocol


def _read_descriptors_max() -> int:
    """Return the descriptor from which on no connection is accepted: a quarter is kept free."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return soft * 3 // 4 if soft != resource.RLIM_INFINITY else 2**31
