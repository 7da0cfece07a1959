"""The command `console`, or `python -m sematext_agent.console`: the live page and its live feed."""

from __future__ import annotations

import asyncio
import logging
import socket
from functools import partial
from typing import TYPE_CHECKING

from sematext_agent.console.live_feed import VIEWERS_MAX, LiveFeed
from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared import listener
from sematext_agent.shared.retry import Backoff, retry
from sematext_agent.shared.service import Runtime, run

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer

log = logging.getLogger(__name__)


async def work(runtime: Runtime[ConsoleSettings]) -> None:
    """Serve the page until the process is stopped."""
    feed = LiveFeed(runtime)
    async with asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(feed.run(), name="live feed"),
            tasks.create_task(_serve(runtime, feed), name="page"),
        ]
        await runtime.stopping.wait()
        for helper in helpers:
            helper.cancel()


async def _serve(runtime: Runtime[ConsoleSettings], feed: LiveFeed) -> None:
    """Serve the page as soon as its port is free; a port in use must not end the agent."""
    host, port = runtime.settings.console_host, runtime.settings.console_port

    async def listen() -> socket.socket:
        return listener.listen(host, port)

    def report(error: Exception) -> None:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        problem = f"cannot listen on {host} port {port} ({reason}); set CONSOLE_PORT to another"
        runtime.health.set_condition("page", False, problem)

    listening = await retry(listen, OSError, Backoff(1, 30), report)
    address = "http://{}:{}/".format(*listening.getsockname()[:2])
    log.info("the page is on %s", address)
    runtime.health.set_condition("page", True, address)
    # Every open page holds one for its live feed.
    connections_max = VIEWERS_MAX + listener.CONNECTIONS_MAX
    await listener.serve(listening, partial(_build_server, feed), connections_max)


def _build_server(feed: LiveFeed) -> HttpServer:
    from sematext_agent.console import web  # at the first visit only: see shared.listener
    from sematext_agent.shared import http_server

    return http_server.HttpServer(web.build_application(feed))


def main() -> None:
    """Run the service `console`."""
    run("console", work, ConsoleSettings)


if __name__ == "__main__":
    main()
