"""The guard of every request: the host's name, the origin of a change, and a strict policy.

The page listens on the loopback, where every web page the user visits can reach it too. Under a
name of its own that leads to 127.0.0.1 (DNS rebinding) such a page would read ours, so only known
names are answered. And it could post to ours, so a change is taken from our own page alone.
"""

from __future__ import annotations

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sematext_agent.shared.http_server import LOOPBACK_NAMES, find_host

_HEADERS = {
    # Nothing from elsewhere, nothing inline: no browser would run code in the text of an event.
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "Cache-Control": "no-store",
}


class Guard:
    """The middleware before `app`: it accepts the names of the loopback and `names`."""

    def __init__(self, app: ASGIApp, names: tuple[str, ...]) -> None:
        self._app = app
        self._names = frozenset(name.lower() for name in (*LOOPBACK_NAMES, *names))

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass one request on, or reject it."""

        async def send_guarded(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in _HEADERS.items():
                    headers[name] = value
            await send(message)

        headers = Headers(scope=scope)
        app = self._app
        if find_host(headers) not in self._names:
            app = PlainTextResponse(
                "This page is not known under that name; list it in CONSOLE_ALLOWED_HOSTS.\n", 421
            )
        elif scope["method"] not in ("GET", "HEAD") and not _is_same_origin(headers):
            app = PlainTextResponse("Changes are taken from this page itself alone.\n", 403)
        await app(scope, receive, send_guarded)


def _is_same_origin(headers: Headers) -> bool:
    """Return whether a request comes from our own page; browsers send the origin with a POST."""
    origin = headers.get("origin", "")
    return "://" in origin and origin.partition("://")[2] == headers.get("host")
