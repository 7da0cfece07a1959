"""The schedule of searches for scan roots."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.host_collector.packages.processes import HOST, ProcessList
from sematext_agent.host_collector.packages.scan_patterns import PATTERNS, ScanPattern
from sematext_agent.host_collector.packages.search_schedule import (
    PROCESSES_SECONDS,
    SearchSchedule,
)
from sematext_agent.host_collector.settings import HostSettings

CONTAINER = "ab" * 32
USED = ScanPattern("node", "srv/app/node_modules")


class FakeProcesses(ProcessList):
    """Processes that a test starts and ends."""

    def __init__(self, proc: str) -> None:
        super().__init__(proc)
        self.started: dict[str, set[ScanPattern]] = {}

    def update(self) -> dict[str, set[ScanPattern]]:
        started, self.started = self.started, {}
        self.patterns |= started
        return started


@pytest.fixture
def processes(tmp_path: Path) -> FakeProcesses:
    return FakeProcesses(str(tmp_path))


def search(schedule: SearchSchedule, container_id: str, now: float) -> list[ScanPattern]:
    """Do what the scanner does: update, and search where it is time to."""
    schedule.update(now)
    if patterns := schedule.next_patterns(container_id, now):
        schedule.note_searched(container_id)
    return patterns


def test_a_file_system_is_searched_at_first_and_with_every_rescan(
    processes: FakeProcesses,
) -> None:
    schedule = SearchSchedule(HostSettings(), processes)
    processes.started = {HOST: {USED}}
    assert search(schedule, HOST, 0.0) == [*PATTERNS, USED, USED]
    assert search(schedule, HOST, PROCESSES_SECONDS) == []
    assert search(schedule, HOST, 600.0) == [*PATTERNS]
    schedule.request_rescan()
    assert search(schedule, HOST, 601.0) == [*PATTERNS]
    assert search(schedule, HOST, 602.0) == []


def test_a_new_process_is_searched_for_alone(processes: FakeProcesses) -> None:
    schedule = SearchSchedule(HostSettings(), processes)
    search(schedule, HOST, 0.0)
    processes.started = {HOST: {USED}}
    assert search(schedule, HOST, PROCESSES_SECONDS - 0.1) == []
    assert search(schedule, HOST, PROCESSES_SECONDS) == [USED]
    assert search(schedule, HOST, PROCESSES_SECONDS) == []


def test_a_container_that_starts_again_is_searched_again(processes: FakeProcesses) -> None:
    schedule = SearchSchedule(HostSettings(pkg_enabled=False), processes)
    for began in (0.0, 100.0):
        processes.containers = {CONTAINER: 1}
        assert search(schedule, CONTAINER, began) == [*PATTERNS]
        assert schedule.searched == {CONTAINER}
        processes.containers = {}
        schedule.update(began + 50)
        assert schedule.file_systems == []
        assert schedule.searched == set()


def test_notifications_after_the_end_of_a_container_plan_no_search(
    processes: FakeProcesses,
) -> None:
    """Else the scanner would have no pause any more."""
    schedule = SearchSchedule(HostSettings(), processes)
    search(schedule, HOST, 0.0)
    schedule.request_search(CONTAINER, 1.0)
    assert schedule.next_search_at == float("inf")
    schedule.request_search(HOST, 2.0)
    assert schedule.next_search_at == 2.0
    assert search(schedule, HOST, 1.9) == []
    assert search(schedule, HOST, 2.0) == [*PATTERNS]
