"""The history of the stream that the page shows: the newest rows, and counts by the minute.

Both are bounded, whatever the stream holds: the rows by a number, the counts by a day of minutes
with a few sources and severities each.
"""

from __future__ import annotations

import itertools
from collections import Counter, deque
from collections.abc import Iterator
from typing import Any

from sematext_agent.console.rows import RANGES, Row, RowFilter
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock

ROWS_MAX = 10_000
"""Newest events that can be searched and listed."""
GAPS_MAX = 50
ORIGINS_MAX = 200
_MINUTE_SECONDS = 60
_MINUTES_MAX = 25 * 60
_BARS = {"1h": 60, "6h": 72, "24h": 96}

Cell = tuple[str, str]
"""A source and a severity."""


class History:
    """The newest events of the stream, added in the stream's order.

    Attributes:
        gaps: rows of the newest gap events.
        origins: hosts and clusters, in the order of their first event.
        count: events that were added.
        first_time: time of the first event that was added, seconds since the epoch.
    """

    def __init__(self, clock: Clock = SYSTEM_CLOCK) -> None:
        self._clock = clock
        self._rows: deque[Row] = deque(maxlen=ROWS_MAX)
        self._minutes: dict[int, Counter[Cell]] = {}
        self.gaps: deque[Row] = deque(maxlen=GAPS_MAX)
        self.origins: dict[str, None] = {}
        self.count = 0
        self.first_time = 0.0

    @property
    def last_number(self) -> int:
        """Number of the newest row in the stream; 0 without any row."""
        return self._rows[-1].number if self._rows else 0

    def __len__(self) -> int:
        """Return how many rows are kept."""
        return len(self._rows)

    def add(self, row: Row) -> None:
        """Add the next event, and drop what exceeds the bounds."""
        self._rows.append(row)
        self.count += 1
        self.first_time = self.first_time or row.time
        if row.gap:
            self.gaps.append(row)
        if row.origin and len(self.origins) < ORIGINS_MAX:
            self.origins[row.origin] = None
        minute = int(row.time // _MINUTE_SECONDS)
        if abs(minute - self._now() // _MINUTE_SECONDS) <= _MINUTES_MAX:
            self._minutes.setdefault(minute, Counter())[row.source, row.severity] += 1
            while len(self._minutes) > _MINUTES_MAX:
                del self._minutes[min(self._minutes)]

    def newest(self, row_filter: RowFilter, limit: int, before: int = 0) -> list[Row]:
        """Return the newest matching rows, newest first, of those before the number `before`."""
        older = (row for row in reversed(self._rows) if not before or row.number < before)
        return list(itertools.islice(filter(row_filter.match, older), limit))

    def after(self, number: int) -> Iterator[Row]:
        """Yield the rows behind the number, newest first."""
        return itertools.takewhile(lambda row: row.number > number, reversed(self._rows))

    def timeline(self, row_filter: RowFilter) -> dict[str, Any]:
        """Count the events of each source and severity in each bar of the range.

        `cells` holds `[bar, source, severity, count]`, also for sources and severities that the
        filter leaves out. A filter by text or origin can only count the rows that are kept:
        `counted_since` is the time from which the counts are complete.
        """
        bars = _BARS[row_filter.range]
        width = RANGES[row_filter.range] // bars
        first = int(self._now()) // width - bars + 1
        counts: Counter[tuple[int, str, str]] = Counter()
        for time, source, severity, count in self._counts(row_filter):
            bar = int(time // width) - first
            if 0 <= bar < bars:
                counts[bar, source, severity] += count
        oldest = self._rows[0].time if row_filter.needs_rows and self._rows else self.first_time
        start = first * width
        return {
            "start": start,
            "width": width,
            "bars": bars,
            "counted_since": oldest,
            "cells": [[*cell, count] for cell, count in sorted(counts.items())],
            "gaps": [row for row in self.gaps if row.gap and row.gap[1] >= start],
        }

    def _counts(self, row_filter: RowFilter) -> Iterator[tuple[float, str, str, int]]:
        if row_filter.needs_rows:
            text = RowFilter(words=row_filter.words, origin=row_filter.origin)
            for row in filter(text.match, self._rows):
                yield row.time, row.source, row.severity, 1
            return
        for minute, cells in self._minutes.items():
            for (source, severity), count in cells.items():
                yield minute * _MINUTE_SECONDS, source, severity, count

    def _now(self) -> float:
        return self._clock.wall_ns() / 1e9
