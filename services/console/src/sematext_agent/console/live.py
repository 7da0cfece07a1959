"""What one open page is told: Server-Sent Events, a few a second at most."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sematext_agent.console.history import History
from sematext_agent.console.lookout import Lookout
from sematext_agent.console.rows import SEVERITIES, SOURCES, Filters, Row

TICK_SECONDS = 0.5
SLOW_TICKS = 4
"""The timeline and the services are told anew every so many ticks."""
ROWS_FIRST = 100
ROWS_PER_TICK_MAX = 10
"""Of more events the page gets a sample, the worst first, and is told how many there were."""
CATCH_UP_SECONDS_MAX = 10.0
_SCANNED_MAX = 10_000

_encode = msgspec.json.Encoder().encode


async def live(lookout: Lookout, filters: Filters) -> AsyncIterator[bytes]:
    """`start` with what there is, then `tick` with what came; `start` again for another stream."""
    with lookout.looking():
        yield b"retry: 1000\n\n"
        history: History | None = None
        number = 0
        for tick in itertools.count():
            if history is not lookout.history:
                await _until_caught_up(lookout)
                history, number = lookout.history, lookout.history.last_number
                yield _event("start", _start(lookout, history, filters))
            else:
                told, number = _tick(history, filters, number)
                if not tick % SLOW_TICKS:
                    told |= _slow(lookout, history, filters)
                if told:
                    yield _event("tick", told)
            if await _stopped(lookout, TICK_SECONDS):
                return


def _start(lookout: Lookout, history: History, filters: Filters) -> dict[str, Any]:
    return {
        "rows": history.newest(filters, ROWS_FIRST),
        "sources": SOURCES,
        "severities": SEVERITIES,
        "replay": lookout.settings.console_replay_enabled,
    } | _slow(lookout, history, filters)


def _slow(lookout: Lookout, history: History, filters: Filters) -> dict[str, Any]:
    return {
        "timeline": history.timeline(filters),
        "overview": lookout.overview,
        "origins": list(history.origins),
        "kept": len(history),
    }


def _tick(history: History, filters: Filters, number: int) -> tuple[dict[str, Any], int]:
    """What came behind `number`, and the number of the newest."""
    fresh = list(itertools.islice(history.after(number), _SCANNED_MAX))
    if not fresh:
        return {}, number
    matching = list(filter(filters.match, fresh))
    told = {"rows": sample(matching), "matching": len(matching), "came": len(fresh)}
    return told, fresh[0].number


def sample(rows: list[Row]) -> list[Row]:
    """At most `ROWS_PER_TICK_MAX` of the rows, in their order: gaps and errors before the rest."""
    if len(rows) <= ROWS_PER_TICK_MAX:
        return rows
    worst = sorted(rows, key=lambda row: (row.gap is None, SEVERITIES.index(row.severity)))
    chosen = {row.number for row in worst[:ROWS_PER_TICK_MAX]}
    return [row for row in rows if row.number in chosen]


async def _until_caught_up(lookout: Lookout) -> None:
    """Waits for what the stream holds; not where the broker is away, nor for longer than a bit."""
    begun = asyncio.get_running_loop().time()
    while not lookout.caught_up.is_set() and lookout.bus.is_connected:
        if asyncio.get_running_loop().time() - begun > CATCH_UP_SECONDS_MAX:
            return
        if await _stopped(lookout, 0.02):
            return


async def _stopped(lookout: Lookout, seconds: float) -> bool:
    """Waits for so long, or until the process is to stop: then a page must let go of it."""
    try:
        async with asyncio.timeout(seconds):
            return await lookout.stopping.wait()
    except TimeoutError:
        return False


def _event(name: str, told: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(told))
