"""What the page remembers of the stream: the newest lines, and counts by the minute.

Both have a bound, whatever the stream holds: the lines a number, the counts a day of minutes with a
few sources and severities each.
"""

from __future__ import annotations

import itertools
import time
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from sematext_agent.console.rows import RANGES, Filters, Row

ROWS_MAX = 10_000
"""So many of the newest events can be searched and listed."""
GAPS_MAX = 50
ORIGINS_MAX = 200
_MINUTE = 60
_MINUTES_MAX = 25 * 60
_BARS = {"1h": 60, "6h": 72, "24h": 96}

Cell = tuple[str, str]
"""A source and a severity."""


class History:
    """The newest of the stream. `add` in the stream's order."""

    def __init__(self) -> None:
        self._rows: deque[Row] = deque(maxlen=ROWS_MAX)
        self._minutes: dict[int, Counter[Cell]] = {}
        self.gaps: deque[Row] = deque(maxlen=GAPS_MAX)
        self.origins: dict[str, None] = {}
        """The hosts and clusters that were seen, in that order."""
        self.count = 0
        """Events that were added."""
        self.first_time = 0.0
        """Of the first event that was counted, seconds since the epoch."""

    @property
    def last_number(self) -> int:
        """Of the newest line in the stream; 0 where there is none."""
        return self._rows[-1].number if self._rows else 0

    def __len__(self) -> int:
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Remembers one more event, and forgets what is over the bounds."""
        self._rows.append(row)
        self.count += 1
        self.first_time = self.first_time or row.time
        if row.gap:
            self.gaps.append(row)
        if row.origin and len(self.origins) < ORIGINS_MAX:
            self.origins[row.origin] = None
        minute = int(row.time // _MINUTE)
        if abs(minute - time.time() // _MINUTE) <= _MINUTES_MAX:
            self._minutes.setdefault(minute, Counter())[row.source, row.severity] += 1
            while len(self._minutes) > _MINUTES_MAX:
                del self._minutes[min(self._minutes)]

    def newest(self, filters: Filters, limit: int, before: int = 0) -> list[Row]:
        """The newest lines that match, newest first, of those before the number `before`."""
        older = (row for row in reversed(self._rows) if not before or row.number < before)
        return list(itertools.islice(filter(filters.match, older), limit))

    def after(self, number: int) -> Iterator[Row]:
        """The lines behind the number, newest first."""
        return itertools.takewhile(lambda row: row.number > number, reversed(self._rows))

    def timeline(self, filters: Filters) -> dict[str, Any]:
        """How many events of which source and severity in each bar of the range.

        `cells` holds `[bar, source, severity, count]`, whichever of them the page chooses to draw.
        Where the text decides, only the lines that are remembered can be counted: `counted_since`
        says from when on the counts are whole.
        """
        bars = _BARS[filters.range]
        width = RANGES[filters.range] // bars
        first = int(time.time()) // width - bars + 1
        found: Counter[tuple[int, str, str]] = Counter()
        for at, source, severity, count in self._counts(filters):
            bar = int(at // width) - first
            if 0 <= bar < bars:
                found[bar, source, severity] += count
        oldest = self._rows[0].time if filters.look_at_text and self._rows else self.first_time
        start = first * width
        return {
            "start": start,
            "width": width,
            "bars": bars,
            "counted_since": oldest,
            "cells": [[*where, count] for where, count in sorted(found.items())],
            "gaps": [row for row in self.gaps if row.gap and row.gap[1] >= start],
        }

    def _counts(self, filters: Filters) -> Iterator[tuple[float, str, str, int]]:
        if filters.look_at_text:
            text = Filters(words=filters.words, origin=filters.origin)
            for row in filter(text.match, self._rows):
                yield row.time, row.source, row.severity, 1
            return
        for minute, cells in self._minutes.items():
            for (source, severity), count in cells.items():
                yield minute * _MINUTE, source, severity, count
