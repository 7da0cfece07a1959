"""The HTTP socket of a service, with a server that is imported at the first connection.

FastAPI and its server cost 20 MB and half a second, and on a plain machine there may never be a
connection: `agentctl status` sends its request over the bus.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer


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


async def serve(listener: socket.socket, build: Callable[[], HttpServer]) -> None:
    """Serve on `listener`, from the first connection on, the server that `build` returns.

    Runs until cancelled. `build` runs in a thread, so that events go on while it imports.
    """
    loop = asyncio.get_running_loop()
    connection_pending = asyncio.Event()
    loop.add_reader(listener, connection_pending.set)
    try:
        await connection_pending.wait()
    finally:
        loop.remove_reader(listener)
    server = await asyncio.to_thread(build)
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
