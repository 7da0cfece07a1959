"""The page and its requests: a FastAPI application, imported at the first visit."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.resources import files
from importlib.resources.abc import Traversable
from pathlib import PurePath
from typing import Annotated, Any

import msgspec
from fastapi import Body, FastAPI, Path, Query, Request, Response
from fastapi.responses import StreamingResponse
from starlette.types import ASGIApp

from sematext_agent.console import details
from sematext_agent.console.guard import Guard
from sematext_agent.console.live_feed import VIEWERS_MAX, LiveFeed
from sematext_agent.console.page_stream import stream_page
from sematext_agent.console.rows import FilterError, RowFilter
from sematext_agent.shared import dead_letters
from sematext_agent.shared.bus import BusError

ROWS_PER_PAGE = 200
ANSWER_SECONDS_MAX = 8.0
"""Time in which the broker must answer a request."""
_MEDIA_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

Number = Annotated[int, Path(ge=1, le=2**53)]


def build_application(feed: LiveFeed) -> ASGIApp:
    """Return the page over `feed`, behind its guard."""
    # No schema and no documentation pages: only the page itself sends these requests.
    app = FastAPI(openapi_url=None)
    app.exception_handler(BusError)(_on_bus_error)
    app.exception_handler(TimeoutError)(_on_bus_error)
    app.exception_handler(FilterError)(_on_filter_error)
    for file in files("sematext_agent.console").joinpath("page").iterdir():
        app.get("/" if file.name == "index.html" else f"/{file.name}")(_serve_file(file))
    _add_events(app, feed)
    _add_dead_letters(app, feed)
    return Guard(app, feed.runtime.settings.console_allowed_hosts)


def _serve_file(file: Traversable) -> Callable[[], Awaitable[Response]]:
    """Return what serves a file of the page, which is read once."""
    content, media_type = file.read_bytes(), _MEDIA_TYPES[PurePath(file.name).suffix]

    async def serve() -> Response:
        return Response(content, media_type=media_type)

    return serve


def _add_events(app: FastAPI, feed: LiveFeed) -> None:
    @app.get("/live")
    async def follow(request: Request) -> Response:
        row_filter = RowFilter.parse(request.query_params)
        if feed.viewers >= VIEWERS_MAX:
            return _problem(503, f"{VIEWERS_MAX} pages are open already; close one of them.")
        return StreamingResponse(stream_page(feed, row_filter), media_type="text/event-stream")

    @app.get("/rows")
    async def rows(request: Request, before: Annotated[int, Query(ge=0)] = 0) -> Response:
        row_filter = RowFilter.parse(request.query_params)
        return _json({"rows": feed.history.newest(row_filter, ROWS_PER_PAGE, before)})

    @app.get("/events/{number}")
    async def event(number: Number) -> Response:
        answer = await _in_time(details.read_event(feed.runtime.bus, number))
        return _json(answer) if answer else _problem(404, "The stream no longer holds this event.")


def _add_dead_letters(app: FastAPI, feed: LiveFeed) -> None:
    bus = feed.runtime.bus

    @app.get("/dead")
    async def list_dead_letters(before: Annotated[int, Query(ge=0)] = 0) -> Response:
        return _json(await _in_time(details.list_dead_letters(bus, before)))

    @app.get("/dead/{number}")
    async def read_dead_letter(number: Number) -> Response:
        answer = await _in_time(details.read_dead_letter(bus, number))
        return _json(answer) if answer else _problem(404, "There is no such dead letter any more.")

    @app.post("/dead/replay")
    async def replay(
        numbers: Annotated[list[int], Body(max_length=details.DEAD_LETTERS_MAX)],
    ) -> Response:
        if not feed.runtime.settings.console_replay_enabled:
            return _problem(403, "This page may only look; CONSOLE_REPLAY_ENABLED=true allows it.")
        count = 0
        for number in numbers:
            message = await _in_time(dead_letters.find_dead_letter(bus, number))
            if message is not None:
                await _in_time(dead_letters.replay_dead_letter(bus, message))
                count += 1
        return _json({"replayed": count})


async def _in_time(answer: Awaitable[Any]) -> Any:
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        return await answer


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _problem(status: int, text: str) -> Response:
    return Response(msgspec.json.encode({"problem": text}), status, media_type="application/json")


async def _on_bus_error(request: Request, error: Exception) -> Response:
    reason = str(error) or "no answer in time"
    return _problem(503, f"The broker does not answer now: {reason}.")


async def _on_filter_error(request: Request, error: Exception) -> Response:
    return _problem(400, str(error))
