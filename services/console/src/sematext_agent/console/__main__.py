"""The process: the page, and what keeps it informed while somebody looks."""

from __future__ import annotations

import asyncio
import logging
from functools import partial
from typing import TYPE_CHECKING

from sematext_agent.console.lookout import Lookout
from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared import listener
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime, run

if TYPE_CHECKING:
    from sematext_agent.shared.http_server import HttpServer

log = logging.getLogger(__name__)


async def work(runtime: Runtime[ConsoleSettings]) -> None:
    """Serves the page until the process is told to stop."""
    lookout = Lookout(runtime)
    async with asyncio.TaskGroup() as tasks:
        helpers = [
            tasks.create_task(lookout.keep(), name="lookout"),
            tasks.create_task(_serve(runtime, lookout), name="page"),
        ]
        await runtime.stopping.wait()
        for helper in helpers:
            helper.cancel()


async def _serve(runtime: Runtime[ConsoleSettings], lookout: Lookout) -> None:
    """Serves the page as soon as its port is free: no reason to end, and the agent with it."""
    host, port = runtime.settings.console_host, runtime.settings.console_port
    backoff = Backoff(1, 30)
    while True:
        try:
            asked = listener.listen(host, port)
            break
        except OSError as error:
            problem = f"cannot listen on {host} port {port} ({error.strerror})"
            runtime.health.set_condition("page", False, f"{problem}; set CONSOLE_PORT to another")
            await asyncio.sleep(backoff.draw_delay_seconds())
    address = "http://{}:{}/".format(*asked.getsockname()[:2])
    log.info("the page is on %s", address)
    runtime.health.set_condition("page", True, address)
    await listener.serve(asked, partial(_page, lookout))


def _page(lookout: Lookout) -> HttpServer:
    from sematext_agent.console import web  # at the first visit only: see shared.listener
    from sematext_agent.shared import http_server

    return http_server.build_http_server(web.application(lookout))


def main() -> None:
    """The command `console`."""
    run("console", work, ConsoleSettings)


if __name__ == "__main__":
    main()
