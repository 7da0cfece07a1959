"""Where a service listens for questions about its health, and how it comes to answer them.

`shared.pages`, with FastAPI and its server, is imported at the first connection: it costs 20 MB and
half a second, and on a plain machine nobody may ever ask. `agentctl status` asks over the bus.
"""

from __future__ import annotations

import asyncio
import importlib
import socket

from shared.health import Health


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


async def serve(health: Health, listener: socket.socket) -> None:
    """Serves the pages of `health` on `listener`, from the first connection on; until cancelled."""
    loop = asyncio.get_running_loop()
    asked = asyncio.Event()
    loop.add_reader(listener, asked.set)
    try:
        await asked.wait()
    finally:
        loop.remove_reader(listener)
    # Imported in a thread, so that events go on meanwhile.
    pages = await asyncio.to_thread(importlib.import_module, "shared.pages")
    server = pages.server(health)
    serving = asyncio.ensure_future(server.serve([listener]))
    try:
        await asyncio.shield(serving)
    finally:
        server.should_exit = True
        await serving
