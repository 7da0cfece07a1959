"""The HTTP server of a service, and its health: `/healthz`, `/readyz` and `/metrics`.

`/healthz` answers while the process lives: its event loop turns, or nothing would answer.
`/readyz` answers 200 while every condition holds and nothing has waited for an acknowledgement for
too long, else 503. `/metrics` is the text format of Prometheus.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.types import ASGIApp

from sematext_agent.shared.health import Health
from sematext_agent.shared.logs import escape_json


def build_health_app(health: Health) -> FastAPI:
    """Return the app with the three pages of `health`."""
    # No schema and no documentation pages: there is nothing to try out here.
    app = FastAPI(openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> Response:
        return Response("alive\n", media_type="text/plain")

    @app.get("/readyz")
    async def readyz() -> Response:
        report = health.report()
        # A person may print it to a terminal.
        text = escape_json(msgspec.json.encode(report).decode())
        return Response(text, 200 if report.ready else 503, media_type="application/json")

    @app.get("/metrics")
    async def metrics() -> Response:
        health.report()
        return Response(generate_latest(health.registry), media_type=CONTENT_TYPE_PLAIN_0_0_4)

    return app


class HttpServer(uvicorn.Server):
    """A uvicorn server inside a process that handles its own signals.

    uvicorn's own handling raises the signal anew after its shutdown, which ends the process before
    anything is drained.
    """

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to the process."""
        yield


def build_http_server(app: ASGIApp) -> HttpServer:
    """Return a server of `app`, for a socket that it is handed."""
    return HttpServer(
        uvicorn.Config(
            app,
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            timeout_graceful_shutdown=2,
        )
    )
