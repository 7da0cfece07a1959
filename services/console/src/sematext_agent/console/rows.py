"""The rows of the page, one for each event, and the filter that selects rows."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sematext_agent.shared import severity, subjects, summary
from sematext_agent.shared.bus import Message
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, decode, parse_rfc3339

SOURCES = (*subjects.SOURCES, "other")
SEVERITIES = tuple(reversed(severity.SEVERITIES))
"""The worst first, as the page shows them."""
RANGES = {"1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600}
"""Ranges of the timeline, in seconds."""
_TEXT_CHARACTERS_MAX = 400
_QUERY_CHARACTERS_MAX = 200


class Row(msgspec.Struct, frozen=True):
    """A row of the page: small and of bounded size, as the whole event stays in the stream."""

    number: int
    """Sequence in the stream."""
    time: float
    """Seconds since the epoch, to the millisecond."""
    source: str
    severity: str
    origin: str
    text: str
    id: str
    gap: tuple[float, float] | None = None
    """Begin and end of a gap event's gap, seconds since the epoch; None for other events."""


def row_of(message: Message) -> Row:
    """Return the row for a message of the stream, also for one that is no event."""
    return make_row(message.subject, message.data, message.sequence, message.time_ns)


def make_row(subject: str, data: bytes, number: int, time_ns: int) -> Row:
    """Return the row for `data` that was published on `subject` and stored at `time_ns`."""
    source = subject.split(".")[1]
    source = source if source in SOURCES else "other"
    stored = time_ns / NS_PER_SECOND
    try:
        event = decode(data)
    except msgspec.DecodeError:
        text = f"{subject}: {len(data)} bytes that are no event"
        return Row(number, stored, source, "error", "", _cut(text), "")
    return Row(
        number=number,
        time=_seconds(event.time, stored),
        source=source,
        severity=severity.severity_of(event.body),
        origin=_cut(event.origin),
        text=_cut(summary.summarize(event.body)),
        id=_cut(event.id),
        gap=_gap_span(event, stored),
    )


def _gap_span(event: Event, default: float) -> tuple[float, float] | None:
    if not isinstance(event.body, Gap):
        return None
    until = _seconds(event.body.until, default)
    return _seconds(event.body.since, until), until


def _seconds(time: str, default: float) -> float:
    """Return RFC 3339 `time` in seconds since the epoch, or `default` if it is no such time."""
    try:
        return parse_rfc3339(time) // 10**6 / 1000
    except (ValueError, OverflowError):
        return default


def _cut(text: str) -> str:
    if len(text) <= _TEXT_CHARACTERS_MAX:
        return text
    return text[: _TEXT_CHARACTERS_MAX - 1] + "…"


class FilterError(Exception):
    """A filter in the address that cannot be used. Its text is one line: problem and remedy."""


class RowFilter(msgspec.Struct, frozen=True, kw_only=True):
    """The filter of rows in the page's address."""

    words: tuple[str, ...] = ()
    """Lower-case words that a row must contain, or must not with a `-` before them."""
    sources: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    origin: str = ""
    since: float = 0.0
    """Begin of the times, seconds since the epoch."""
    until: float = 0.0
    """End of the times, seconds since the epoch; 0 for no end."""
    range: str = "1h"

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> RowFilter:
        """Return the filter in the query of an address.

        Raises:
            FilterError: a value in the query cannot be used.
        """
        span = query.get("range") or "1h"
        if span not in RANGES:
            raise FilterError(f"range={span}: set it to one of {', '.join(RANGES)}")
        try:
            since, until = (float(query.get(name) or 0) for name in ("since", "until"))
        except ValueError:
            raise FilterError("since, until: write seconds since 1970") from None
        return cls(
            words=tuple(query.get("q", "")[:_QUERY_CHARACTERS_MAX].lower().split()),
            sources=_parse_choices(SOURCES, "source", query),
            severities=_parse_choices(SEVERITIES, "severity", query),
            origin=query.get("origin", ""),
            since=since,
            until=until,
            range=span,
        )

    @property
    def needs_rows(self) -> bool:
        """True if more than source and severity decides, which the counts do not have."""
        return bool(self.words or self.origin)

    def match(self, row: Row) -> bool:
        """Return whether the filter selects the row."""
        if self.sources and row.source not in self.sources:
            return False
        if self.severities and row.severity not in self.severities:
            return False
        if self.origin and row.origin != self.origin:
            return False
        if row.time < self.since or (self.until and row.time >= self.until):
            return False
        return not self.words or self._contains_words(
            f"{row.source} {row.origin} {row.text} {row.id}"
        )

    def _contains_words(self, text: str) -> bool:
        text = text.lower()
        return all(
            (word[1:] not in text) if len(word) > 1 and word[0] == "-" else word in text
            for word in self.words
        )


def _parse_choices(choices: tuple[str, ...], name: str, query: Mapping[str, str]) -> frozenset[str]:
    chosen = frozenset(filter(None, query.get(name, "").split(",")))
    if unknown := chosen - set(choices):
        raise FilterError(f"{name}={min(unknown)}: choose among {', '.join(choices)}")
    return chosen
