"""What the page remembers has a bound, and its counts are whole."""

from __future__ import annotations

import time

from sematext_agent.console import history
from sematext_agent.console.history import History
from sematext_agent.console.live import sample
from sematext_agent.console.rows import Filters, Row


def a_row(number: int, seconds_ago: float = 0, severity: str = "info", **values: object) -> Row:
    known = {"source": "docker", "origin": "web-01", "text": f"container web-{number} start"}
    return Row(
        number=number,
        time=time.time() - seconds_ago,
        severity=severity,
        id=str(number),
        **(known | values),  # type: ignore[arg-type]
    )


def remember(*rows: Row) -> History:
    remembered = History()
    for row in rows:
        remembered.add(row)
    return remembered


def counts(remembered: History, **query: str) -> dict[tuple[str, str], int]:
    """By source and severity: how many the timeline counts."""
    cells = remembered.timeline(Filters.parse(query))["cells"]
    return {
        (source, severity): sum(c[3] for c in cells if c[1:3] == [source, severity])
        for _, source, severity, _ in cells
    }


def test_memory_has_a_bound_whatever_comes() -> None:
    remembered = History()
    for number in range(30_000):
        remembered.add(a_row(number, number * 60, origin=str(number)))  # another minute each
    assert len(remembered) == history.ROWS_MAX
    assert len(remembered.origins) == history.ORIGINS_MAX
    assert len(remembered._minutes) <= history._MINUTES_MAX + 1


def test_the_timeline_counts_also_what_is_no_longer_listed() -> None:
    remembered = remember(*(a_row(number) for number in range(history.ROWS_MAX + 500)))
    assert counts(remembered) == {("docker", "info"): history.ROWS_MAX + 500}
    assert counts(remembered, q="web") == {("docker", "info"): history.ROWS_MAX}


def test_the_timeline_says_from_when_on_it_counts_and_keeps_to_its_range() -> None:
    remembered = remember(a_row(1, 7200), a_row(2, 1800, "error"), a_row(3, 10, source="host"))
    assert counts(remembered) == {("docker", "error"): 1, ("host", "info"): 1}
    assert counts(remembered, range="6h")["docker", "info"] == 1
    line = remembered.timeline(Filters.parse({}))
    assert abs(line["counted_since"] - (time.time() - 7200)) < 5
    assert (line["bars"], line["width"]) == (60, 60)
    assert line["start"] + 60 * 60 > time.time() - 60


def test_the_timeline_follows_text_and_origin_whatever_else_is_chosen() -> None:
    remembered = remember(a_row(1), a_row(2, origin="db"), a_row(3, severity="error"))
    assert counts(remembered, origin="db") == {("docker", "info"): 1}
    assert counts(remembered, q="web-3", severity="info", since="1", until="2") == {
        ("docker", "error"): 1
    }


def test_gaps_are_kept_beside_the_lines() -> None:
    gap = a_row(1, 60, gap=(time.time() - 120, time.time() - 60))
    remembered = remember(gap, *(a_row(number) for number in range(2, 20_000)))
    assert remembered.timeline(Filters.parse({}))["gaps"] == [gap]


def test_the_newest_come_first_and_older_ones_on_demand() -> None:
    remembered = remember(*(a_row(number) for number in range(1, 11)))
    assert [row.number for row in remembered.newest(Filters(), 3)] == [10, 9, 8]
    assert [row.number for row in remembered.newest(Filters(), 3, before=8)] == [7, 6, 5]
    assert [row.number for row in remembered.after(8)] == [10, 9]


def test_a_sample_has_the_worst_and_keeps_the_order() -> None:
    rows = [a_row(number, severity="info") for number in range(1000, 0, -1)]
    rows[500] = a_row(500, severity="error")
    rows[600] = a_row(400, severity="warning", gap=(0, 1))
    chosen = sample(rows)
    assert len(chosen) == 10
    assert {500, 400} < {row.number for row in chosen}
    assert [row.number for row in chosen] == sorted((r.number for r in chosen), reverse=True)
    assert sample(rows[:10]) == rows[:10]
