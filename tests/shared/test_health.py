"""The health of a service: its report, with times from the clock that it was handed."""

from __future__ import annotations

import msgspec
import pytest
from virtual_time import WALL_START_NS, ManualClock

from sematext_agent.shared.health import STALLED_SECONDS, Condition, Health, Report


def test_a_figure_that_is_true_or_false_is_a_number_in_the_report() -> None:
    """Readers decode figures as numbers, and would lose the whole report over a boolean."""
    health = Health("test", "host")
    health.add_figure("circuit_open", "1 while the circuit is open.", lambda: True)
    report = msgspec.json.decode(msgspec.json.encode(health.report()), type=Report)
    assert report.figures["circuit_open"] == 1.0


def test_the_times_of_a_report_are_seconds_of_the_wall_clock() -> None:
    clock = ManualClock()
    health = Health("test", "host", clock)
    clock.advance(30)
    health.record_error("the source broke")
    report = health.report()
    assert report.started == WALL_START_NS / 1e9
    assert (report.last_error, report.last_error_at) == (
        "the source broke",
        WALL_START_NS / 1e9 + 30,
    )


@pytest.mark.parametrize(("age", "ready"), [(STALLED_SECONDS, True), (STALLED_SECONDS + 1, False)])
def test_a_service_whose_oldest_event_waits_too_long_is_not_ready(age: float, ready: bool) -> None:
    health = Health("test", "host")
    health.set_condition("bus", True, "connected")
    health.add_figure("oldest_unacknowledged_seconds", "Age.", lambda: age)
    report = health.report()
    assert report.ready == ready
    if not ready:
        assert report.conditions["progress"] == Condition(False, "an event has waited for 61 s")


def test_a_condition_is_logged_when_it_changes_only(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    health = Health("test", "host")
    health.expect_condition("source", "starting")
    for ok in (True, True, False, False, True):
        health.set_condition("source", ok, "up" if ok else "down")
    assert [record.getMessage() for record in caplog.records] == [
        "source: up",
        "source: down",
        "source: up",
    ]
