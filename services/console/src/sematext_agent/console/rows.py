"""One event as a line of the page, and the filters that choose lines."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec

from sematext_agent.shared import summary
from sematext_agent.shared.bus import Message
from sematext_agent.shared.events import NS_PER_SECOND, Event, Gap, decode, parse_rfc3339
from sematext_agent.shared.severity import severity_of

SOURCES = ("docker", "kubernetes", "host", "lifecycle", "other")
SEVERITIES = ("error", "warning", "info")
RANGES = {"1h": 3600, "6h": 6 * 3600, "24h": 24 * 3600}
"""How far back the timeline may go, in seconds."""
_TEXT_CHARACTERS_MAX = 400
_QUERY_CHARACTERS_MAX = 200


class Row(msgspec.Struct, frozen=True):
    """A line of the page. Small and of bounded size: the whole event stays in the stream."""

    number: int
    """In the stream."""
    time: float
    """Seconds since the epoch, to the millisecond."""
    source: str
    severity: str
    origin: str
    text: str
    id: str
    gap: tuple[float, float] | None = None
    """Of a gap: from when to when events may be missing, seconds since the epoch."""


def row_of(message: Message) -> Row:
    """The line for a message of the stream; also for one that is no event."""
    return row(message.subject, message.data, message.sequence, message.time_ns)


def row(subject: str, data: bytes, number: int, time_ns: int) -> Row:
    """The line for what was published on `subject`, and stored at `time_ns`."""
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
        severity=severity_of(event.body),
        origin=_cut(event.origin),
        text=_cut(summary.summarize(event.body)),
        id=_cut(event.id),
        gap=_span(event, stored),
    )


def _span(event: Event, otherwise: float) -> tuple[float, float] | None:
    if not isinstance(event.body, Gap):
        return None
    until = _seconds(event.body.until, otherwise)
    return _seconds(event.body.since, until), until


def _seconds(moment: str, otherwise: float) -> float:
    """The moment in seconds since the epoch; `otherwise` for one that is none."""
    try:
        return parse_rfc3339(moment) // 10**6 / 1000
    except (ValueError, OverflowError):
        return otherwise


def _cut(text: str) -> str:
    if len(text) <= _TEXT_CHARACTERS_MAX:
        return text
    return text[: _TEXT_CHARACTERS_MAX - 1] + "…"


class FilterError(Exception):
    """A filter in the address that is none. Its text is one line: what, and what to do."""


class Filters(msgspec.Struct, frozen=True, kw_only=True):
    """Which lines to show: what stands in the page's address."""

    words: tuple[str, ...] = ()
    """In small letters; all must be found. One with a `-` before it must not."""
    sources: frozenset[str] = frozenset()
    severities: frozenset[str] = frozenset()
    origin: str = ""
    since: float = 0.0
    until: float = 0.0
    """0: no end. Seconds since the epoch."""
    range: str = "1h"

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> Filters:
        """The filters in an address' query. Raises FilterError for what is none."""
        span = query.get("range") or "1h"
        if span not in RANGES:
            raise FilterError(f"range={span}: set it to one of {', '.join(RANGES)}")
        try:
            since, until = (float(query.get(name) or 0) for name in ("since", "until"))
        except ValueError:
            raise FilterError("since, until: write seconds since 1970") from None
        return cls(
            words=tuple(query.get("q", "")[:_QUERY_CHARACTERS_MAX].lower().split()),
            sources=_some_of(SOURCES, "source", query),
            severities=_some_of(SEVERITIES, "severity", query),
            origin=query.get("origin", ""),
            since=since,
            until=until,
            range=span,
        )

    @property
    def look_at_text(self) -> bool:
        """Whether more than source and severity decides."""
        return bool(self.words or self.origin)

    def match(self, row: Row) -> bool:
        """Whether the line is wanted."""
        if self.sources and row.source not in self.sources:
            return False
        if self.severities and row.severity not in self.severities:
            return False
        if self.origin and row.origin != self.origin:
            return False
        if row.time < self.since or (self.until and row.time >= self.until):
            return False
        return not self.words or self._finds(f"{row.source} {row.origin} {row.text} {row.id}")

    def _finds(self, text: str) -> bool:
        text = text.lower()
        return all(
            (word[1:] not in text) if len(word) > 1 and word[0] == "-" else word in text
            for word in self.words
        )


def _some_of(known: tuple[str, ...], name: str, query: Mapping[str, str]) -> frozenset[str]:
    chosen = frozenset(filter(None, query.get(name, "").split(",")))
    if unknown := chosen - set(known):
        raise FilterError(f"{name}={min(unknown)}: choose among {', '.join(known)}")
    return chosen
