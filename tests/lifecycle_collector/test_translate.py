"""The record of a run, and its events: ids and times do not change with the version."""

from __future__ import annotations

import msgspec

from sematext_agent.lifecycle_collector.translate import (
    RunRecord,
    begin_record,
    continues,
    run_name,
    started_event,
    stopped_event,
)
from sematext_agent.shared.events import AgentLifecycle, event_id, format_rfc3339

RUNNING = RunRecord("run-1", "run-1", started=1, alive=20)
STOPPED = RunRecord("run-1", "run-1", started=1, alive=30, stopped=30)


def test_the_stored_form_of_a_record() -> None:
    stored = b'{"run":"run-1","identity":"run-1","started":1,"alive":20,"stopped":0}'
    assert msgspec.json.encode(RUNNING) == stored
    assert msgspec.json.decode(stored, type=RunRecord) == RUNNING


def test_only_a_run_that_is_not_stopped_is_continued_and_only_by_its_own_identity() -> None:
    assert continues(RUNNING, "run-1")
    assert not continues(RUNNING, "run-2")
    assert not continues(STOPPED, "run-1")
    assert not continues(None, "run-1")


def test_a_run_after_a_reported_stop_of_the_same_identity_has_another_name() -> None:
    assert run_name(None, "run-1") == run_name(RUNNING, "run-1") == "run-1"
    assert run_name(STOPPED, "run-2") == "run-2"
    assert begin_record(STOPPED, "run-1", 40) == RunRecord("run-1.30", "run-1", 40, 40)


def test_the_start_has_the_time_of_the_record() -> None:
    event = started_event(RUNNING, "web-01")
    assert event.id == event_id("lifecycle", "web-01", "run-1", "started")
    assert event.time == format_rfc3339(1)
    assert event.body == AgentLifecycle(state="started", run="run-1")


def test_a_recorded_stop_is_clean_and_any_other_is_at_the_last_heartbeat() -> None:
    clean, unclean = stopped_event(STOPPED, "web-01"), stopped_event(RUNNING, "web-01")
    assert clean.body == AgentLifecycle(state="stopped", run="run-1", clean=True)
    assert unclean.body == AgentLifecycle(state="stopped", run="run-1", clean=False)
    assert (clean.time, unclean.time) == (format_rfc3339(30), format_rfc3339(20))
    assert clean.id == unclean.id == event_id("lifecycle", "web-01", "run-1", "stopped")
