"""The stream of one open page: Server-Sent Events, a few a second at most."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator
from typing import Any

import msgspec

from sematext_agent.console.history import History
from sematext_agent.console.live_feed import LiveFeed
from sematext_agent.console.rows import SEVERITIES, SOURCES, Row, RowFilter
from sematext_agent.shared.waiting import wait_for_event

TICK_SECONDS = 0.5
SUMMARY_TICKS = 4
"""Ticks between two updates of the timeline and the overview."""
FIRST_ROWS = 100
ROWS_PER_TICK_MAX = 10
"""Rows of one tick; of more events the page gets a sample, the worst first, and their number."""
CATCH_UP_SECONDS_MAX = 10.0
_SCANNED_ROWS_MAX = 10_000

_encode = msgspec.json.Encoder().encode


async def stream_page(feed: LiveFeed, row_filter: RowFilter) -> AsyncIterator[bytes]:
    """Yield `start` with the stored events, then `tick` with new ones.

    Another `start` follows when the stream of events is replaced.
    """
    with feed.open_viewer():
        yield b"retry: 1000\n\n"
        history: History | None = None
        number = 0
        for tick in itertools.count():
            if history is not feed.history:
                await feed.wait_until_caught_up(CATCH_UP_SECONDS_MAX)
                history, number = feed.history, feed.history.last_number
                yield _format_event("start", _start(feed, history, row_filter))
            else:
                update, number = _tick(history, row_filter, number)
                if not tick % SUMMARY_TICKS:
                    update |= _summary(feed, history, row_filter)
                if update:
                    yield _format_event("tick", update)
            # The page must release the process when it stops.
            if await wait_for_event(feed.runtime.stopping, TICK_SECONDS):
                return


def _start(feed: LiveFeed, history: History, row_filter: RowFilter) -> dict[str, Any]:
    return {
        "rows": history.newest(row_filter, FIRST_ROWS),
        "sources": SOURCES,
        "severities": SEVERITIES,
        "replay_enabled": feed.runtime.settings.console_replay_enabled,
    } | _summary(feed, history, row_filter)


def _summary(feed: LiveFeed, history: History, row_filter: RowFilter) -> dict[str, Any]:
    return {
        "timeline": history.timeline(row_filter),
        "overview": feed.overview,
        "rates": feed.rates,
        "origins": list(history.origins),
    }


def _tick(history: History, row_filter: RowFilter, number: int) -> tuple[dict[str, Any], int]:
    """Return an update with the events behind `number`, and the number of the newest event."""
    arrived = list(itertools.islice(history.after(number), _SCANNED_ROWS_MAX))
    if not arrived:
        return {}, number
    matching = list(filter(row_filter.match, arrived))
    update = {"rows": sample(matching), "matching": len(matching), "arrived": len(arrived)}
    return update, arrived[0].number


def sample(rows: list[Row]) -> list[Row]:
    """Return at most `ROWS_PER_TICK_MAX` rows in their order, gaps and errors before others."""
    if len(rows) <= ROWS_PER_TICK_MAX:
        return rows
    worst = sorted(rows, key=lambda row: (row.gap is None, SEVERITIES.index(row.severity)))
    chosen = {row.number for row in worst[:ROWS_PER_TICK_MAX]}
    return [row for row in rows if row.number in chosen]


def _format_event(name: str, data: dict[str, Any]) -> bytes:
    return b"event: %s\ndata: %s\n\n" % (name.encode(), _encode(data))
