"""The history of the page is bounded, and its counts are complete."""

from __future__ import annotations

import time

from sematext_agent.console import history
from sematext_agent.console.history import History
from sematext_agent.console.page_stream import sample
from sematext_agent.console.rows import Row, RowFilter


def make_row(number: int, seconds_ago: float = 0, severity: str = "info", **values: object) -> Row:
    defaults = {"source": "docker", "origin": "web-01", "text": f"container web-{number} start"}
    return Row(
        number=number,
        time=time.time() - seconds_ago,
        severity=severity,
        id=str(number),
        **(defaults | values),  # type: ignore[arg-type]
    )


def history_of(*rows: Row) -> History:
    result = History()
    for row in rows:
        result.add(row)
    return result


def counts(kept: History, **query: str) -> dict[tuple[str, str], int]:
    """Return the timeline's count for each source and severity."""
    cells = kept.timeline(RowFilter.parse(query))["cells"]
    return {
        (source, severity): sum(c[3] for c in cells if c[1:3] == [source, severity])
        for _, source, severity, _ in cells
    }


def test_the_history_is_bounded() -> None:
    kept = History()
    for number in range(30_000):
        kept.add(make_row(number, number * 60, origin=str(number)))  # each in a minute of its own
    assert len(kept) == history.ROWS_MAX
    assert len(kept.origins) == history.ORIGINS_MAX
    assert len(kept._minutes) <= history._MINUTES_MAX + 1


def test_the_timeline_counts_also_events_whose_rows_are_dropped() -> None:
    kept = history_of(*(make_row(number) for number in range(history.ROWS_MAX + 500)))
    assert counts(kept) == {("docker", "info"): history.ROWS_MAX + 500}
    assert counts(kept, q="web") == {("docker", "info"): history.ROWS_MAX}


def test_the_timeline_has_its_range_and_the_begin_of_its_counts() -> None:
    kept = history_of(make_row(1, 7200), make_row(2, 1800, "error"), make_row(3, 10, source="host"))
    assert counts(kept) == {("docker", "error"): 1, ("host", "info"): 1}
    assert counts(kept, range="6h")["docker", "info"] == 1
    line = kept.timeline(RowFilter.parse({}))
    assert abs(line["counted_since"] - (time.time() - 7200)) < 5
    assert (line["bars"], line["width"]) == (60, 60)
    assert line["start"] + 60 * 60 > time.time() - 60


def test_the_timeline_applies_text_and_origin_alone() -> None:
    kept = history_of(make_row(1), make_row(2, origin="db"), make_row(3, severity="error"))
    assert counts(kept, origin="db") == {("docker", "info"): 1}
    assert counts(kept, q="web-3", severity="info", since="1", until="2") == {
        ("docker", "error"): 1
    }


def test_gaps_outlive_their_rows() -> None:
    gap = make_row(1, 60, gap=(time.time() - 120, time.time() - 60))
    kept = history_of(gap, *(make_row(number) for number in range(2, 20_000)))
    assert kept.timeline(RowFilter.parse({}))["gaps"] == [gap]


def test_the_newest_rows_come_first_and_older_ones_on_demand() -> None:
    kept = history_of(*(make_row(number) for number in range(1, 11)))
    assert [row.number for row in kept.newest(RowFilter(), 3)] == [10, 9, 8]
    assert [row.number for row in kept.newest(RowFilter(), 3, before=8)] == [7, 6, 5]
    assert [row.number for row in kept.after(8)] == [10, 9]


def test_a_sample_has_the_worst_rows_in_their_order() -> None:
    rows = [make_row(number, severity="info") for number in range(1000, 0, -1)]
    rows[500] = make_row(500, severity="error")
    rows[600] = make_row(400, severity="warning", gap=(0, 1))
    chosen = sample(rows)
    assert len(chosen) == 10
    assert {500, 400} < {row.number for row in chosen}
    assert [row.number for row in chosen] == sorted((r.number for r in chosen), reverse=True)
    assert sample(rows[:10]) == rows[:10]
