"""The page and what it asks for: FastAPI, imported at the first visit."""

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

from sematext_agent.console import opened
from sematext_agent.console.guard import Guard
from sematext_agent.console.live import live
from sematext_agent.console.lookout import VIEWERS_MAX, Lookout
from sematext_agent.console.rows import FilterError, Filters
from sematext_agent.shared import dead_letters
from sematext_agent.shared.bus import BusError

ROWS_PER_PAGE = 200
ANSWER_SECONDS_MAX = 8.0
"""How long the broker may keep a request waiting."""
_TYPES = {
    ".html": "text/html",
    ".css": "text/css",
    ".js": "text/javascript",
    ".svg": "image/svg+xml",
}

Number = Annotated[int, Path(ge=1, le=2**53)]


def application(lookout: Lookout) -> ASGIApp:
    """The page over `lookout`, behind its guard."""
    # No schema and no documentation pages: what is asked for here is the page's own business.
    app = FastAPI(openapi_url=None)
    app.exception_handler(BusError)(_on_bus_error)
    app.exception_handler(TimeoutError)(_on_bus_error)
    app.exception_handler(FilterError)(_on_filter_error)
    for file in files("sematext_agent.console").joinpath("page").iterdir():
        app.get("/" if file.name == "index.html" else f"/{file.name}")(_file(file))
    _add_events(app, lookout)
    _add_dead_letters(app, lookout)
    return Guard(app, lookout.settings.console_allowed_hosts)


def _file(file: Traversable) -> Callable[[], Awaitable[Response]]:
    """Serves a file of the page, which is read once."""
    content, media_type = file.read_bytes(), _TYPES[PurePath(file.name).suffix]

    async def serve() -> Response:
        return Response(content, media_type=media_type)

    return serve


def _add_events(app: FastAPI, lookout: Lookout) -> None:
    @app.get("/live")
    async def follow(request: Request) -> Response:
        filters = Filters.parse(request.query_params)
        if lookout.viewers >= VIEWERS_MAX:
            return _problem(503, f"{VIEWERS_MAX} pages are open already; close one of them.")
        return StreamingResponse(live(lookout, filters), media_type="text/event-stream")

    @app.get("/rows")
    async def rows(request: Request, before: Annotated[int, Query(ge=0)] = 0) -> Response:
        filters = Filters.parse(request.query_params)
        return _json({"rows": lookout.history.newest(filters, ROWS_PER_PAGE, before)})

    @app.get("/events/{number}")
    async def event(number: Number) -> Response:
        found = await _in_time(opened.open_event(lookout.bus, number))
        return _json(found) if found else _problem(404, "The stream no longer holds this event.")


def _add_dead_letters(app: FastAPI, lookout: Lookout) -> None:
    bus = lookout.bus

    @app.get("/dead")
    async def letters(before: Annotated[int, Query(ge=0)] = 0) -> Response:
        return _json(await _in_time(opened.list_letters(bus, before)))

    @app.get("/dead/{number}")
    async def letter(number: Number) -> Response:
        found = await _in_time(opened.open_letter(bus, number))
        return _json(found) if found else _problem(404, "There is no such dead letter any more.")

    @app.post("/dead/replay")
    async def replay(
        numbers: Annotated[list[int], Body(max_length=opened.LETTERS_MAX)],
    ) -> Response:
        if not lookout.settings.console_replay_enabled:
            return _problem(403, "This page may only look; CONSOLE_REPLAY_ENABLED=true allows it.")
        sent = 0
        for number in numbers:
            found = await _in_time(dead_letters.find_dead_letter(bus, number))
            if found is not None:
                await _in_time(dead_letters.replay_dead_letter(bus, found))
                sent += 1
        return _json({"sent": sent})


async def _in_time(answer: Awaitable[Any]) -> Any:
    async with asyncio.timeout(ANSWER_SECONDS_MAX):
        return await answer


def _json(value: object) -> Response:
    return Response(msgspec.json.encode(value), media_type="application/json")


def _problem(status: int, text: str) -> Response:
    return Response(msgspec.json.encode({"problem": text}), status, media_type="application/json")


async def _on_bus_error(request: Request, error: Exception) -> Response:
    reason = str(error) or "no answer in time"
    return _problem(503, f"The broker cannot say it now: {reason}.")


async def _on_filter_error(request: Request, error: Exception) -> Response:
    return _problem(400, str(error))
