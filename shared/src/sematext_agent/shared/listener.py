"""Where a service listens for HTTP, and how it comes to answer.

What answers, with FastAPI and its server, is imported at the first connection: it costs 20 MB and
half a second, and on a plain machine nobody may ever ask. `agentctl status` asks over the bus.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens on `host` and `port` (0: any free one). Raises OSError if it cannot."""
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


async def serve(listener: socket.socket, make: Callable[[], HttpServer]) -> None:
    """Serves on `listener` what `make` makes at the first connection; until cancelled.

    `make` runs in a thread, so that events go on while it imports what it needs.
    """
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_reader(listener, asked.set)
    try:
        await asked.wait()
    finally:
        loop.remove_reader(listener)
    server = await asyncio.to_thread(make)
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
