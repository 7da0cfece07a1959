"""The HTTP server of a service, and its health: `/healthz`, `/readyz` and `/metrics`.

`/healthz` answers while the process lives: its event loop turns, or nothing would answer.
`/readyz` answers 200 while every condition holds and nothing has waited for an acknowledgement for
too long, else 503. `/metrics` is the text format of Prometheus.
"""

from __future__ import annotations

import asyncio
import ipaddress
from urllib.parse import urlsplit

import msgspec
import uvicorn
from fastapi import FastAPI, Response
from prometheus_client import generate_latest
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol
from uvicorn.server import ServerState

from sematext_agent.shared.health import Health
from sematext_agent.shared.logs import escape_json

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
_SHUTDOWN_SECONDS = 2


def build_health_server(health: Health, address: str) -> HttpServer:
    """Return the server of the pages of `health`, which listens on `address`."""
    app: ASGIApp = build_health_app(health)
    return HttpServer(LoopbackGuard(app, address) if is_loopback(address) else app)


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


def find_host(headers: Headers) -> str:
    """Return the name in the Host header, without the port; empty if there is no valid one."""
    try:
        return urlsplit(f"//{headers.get('host', '')}").hostname or ""
    except ValueError:
        return ""


def is_loopback(host: str) -> bool:
    """Return whether an address is reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


class LoopbackGuard:
    """The middleware of health pages on the loopback: it answers to names of the loopback only.

    A web page that a user of this machine visits can reach the loopback under a name of its own
    (DNS rebinding), and would read host name, versions and errors. Nobody else sends another name
    here. On any other address probes come by IP, and Prometheus by whatever name a network has for
    us; there the network decides who may read, and a name would protect nobody.
    """

    def __init__(self, app: ASGIApp, address: str) -> None:
        """Guard `app`, which listens on `address`."""
        self._app = app
        self._names = frozenset((*LOOPBACK_NAMES, address))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or reject it."""
        app = self._app
        headers = Headers(scope=scope)
        # HTTP/1.0 has no Host header, and browsers always send it.
        if "host" in headers and find_host(headers) not in self._names:
            app = PlainTextResponse("Only known as localhost: send that as the Host header.\n", 421)
        await app(scope, receive, send)


class HttpServer:
    """An app and uvicorn's protocol for it, for connections that bring their request along.

    uvicorn's own server accepts without limits, and wakes ten times a second.
    """

    def __init__(self, app: ASGIApp) -> None:
        """Serve `app`."""
        self._config = uvicorn.Config(
            app,
            http="h11",
            log_config=None,
            access_log=False,
            lifespan="off",
            ws="none",
            server_header=False,
            proxy_headers=False,
            # A connection that is kept would have to be limited anew for each request.
            headers=[("connection", "close")],
        )
        self._config.load()
        self._state = ServerState()
        self._state.default_headers = self._config.encoded_headers

    def create_protocol(self, request: bytes) -> OneRequestProtocol:
        """Return the protocol of a connection that has sent `request`."""
        return OneRequestProtocol(self._config, self._state, request)

    async def shutdown(self) -> None:
        """End every connection, after two seconds also one that is being answered."""
        for connection in list(self._state.connections):
            connection.shutdown()
        if tasks := set(self._state.tasks):
            _, late_tasks = await asyncio.wait(tasks, timeout=_SHUTDOWN_SECONDS)
            for task in late_tasks:
                task.cancel()


class OneRequestProtocol(H11Protocol):
    """uvicorn's protocol for a connection whose only request was read before."""

    def __init__(self, config: uvicorn.Config, state: ServerState, request: bytes) -> None:
        """Answer `request` as soon as the connection is made."""
        super().__init__(config, state, {})
        self._request = request
        self.closed = asyncio.Event()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Answer the request."""
        super().connection_made(transport)
        try:
            self.data_received(self._request)
        except BaseException:
            # As the loop does for what it reads itself: the connection would stay for ever.
            transport.abort()
            raise

    def connection_lost(self, exc: Exception | None) -> None:
        """Note the end."""
        super().connection_lost(exc)
        self.closed.set()
