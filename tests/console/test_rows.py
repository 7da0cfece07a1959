"""One event as a row, and the filter in the page's address."""

from __future__ import annotations

from typing import Any

import pytest

from sematext_agent.console.rows import FilterError, RowFilter, make_row
from sematext_agent.shared.events import DockerEvent, Event, Gap, encode, format_rfc3339

NOON = 1_795_000_000


def row(text: str = "web", source: str = "docker", origin: str = "web-01", **values: Any) -> Any:
    body = DockerEvent(type="container", action="start", actor_id="1", attributes={"name": text})
    event = Event(
        id="abc",
        time=format_rfc3339(NOON * 10**9),
        origin=origin,
        agent="1",
        body=values.get("body", body),
    )
    return make_row(f"events.{source}.x.y.z", encode(event), 7, 0)


def test_a_row_has_summary_and_severity() -> None:
    died = DockerEvent(
        type="container", action="die", actor_id="1", attributes={"name": "web", "exitCode": "1"}
    )
    result = row(body=died)
    assert (result.number, result.time, result.source, result.origin) == (
        7,
        NOON,
        "docker",
        "web-01",
    )
    assert (result.text, result.severity) == ("container web die (exit code 1)", "error")


def test_the_row_of_a_gap_has_its_begin_and_end() -> None:
    gap = Gap(
        source="docker",
        reason="expired",
        since=format_rfc3339(NOON * 10**9 - 60 * 10**9),
        until=format_rfc3339(NOON * 10**9),
    )
    assert row(body=gap).gap == (NOON - 60, NOON)
    assert row(body=Gap(source="docker", reason="x", since="?", until="?")).gap == (0, 0)  # stored


def test_a_message_that_is_no_event_has_a_row_and_an_unknown_source_is_other() -> None:
    result = make_row("events.x.y.z.a", b"<b>", 3, 5 * 10**9)
    assert (result.time, result.source, result.severity) == (5, "other", "error")
    assert result.text == "events.x.y.z.a: 3 bytes that are no event"


def test_the_text_of_a_row_is_bounded() -> None:
    assert len(row("x" * 100_000).text) == 400


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ({}, True),
        ({"q": "WEB start"}, True),
        ({"q": "web stop"}, False),
        ({"q": "web -nginx"}, True),
        ({"q": "-start"}, False),
        ({"q": "abc"}, True),
        ({"source": "docker,host"}, True),
        ({"source": "host"}, False),
        ({"severity": "info"}, True),
        ({"severity": "error,warning"}, False),
        ({"origin": "web-01"}, True),
        ({"origin": "web"}, False),
        ({"since": str(NOON), "until": str(NOON + 1)}, True),
        ({"since": str(NOON + 1)}, False),
        ({"until": str(NOON)}, False),
    ],
)
def test_a_filter_selects_rows(query: dict[str, str], expected: bool) -> None:
    assert RowFilter.parse(query).match(row()) is expected


@pytest.mark.parametrize(
    ("query", "problem"),
    [
        ({"source": "dokcer"}, "source=dokcer: choose among docker, kubernetes"),
        ({"severity": "bad"}, "severity=bad: choose among error, warning, info"),
        ({"range": "2h"}, "range=2h: set it to one of 1h, 6h, 24h"),
        ({"since": "noon"}, "since, until: write seconds since 1970"),
    ],
)
def test_an_unusable_filter_is_one_line_with_a_remedy(query: dict[str, str], problem: str) -> None:
    with pytest.raises(FilterError, match=problem):
        RowFilter.parse(query)
