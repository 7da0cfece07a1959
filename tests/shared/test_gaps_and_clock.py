"""A gap event has the same id after any restart; the system's clocks are those of the machine."""

from __future__ import annotations

import time

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.clock import SYSTEM_CLOCK
from sematext_agent.shared.events import Event, Gap, event_id
from sematext_agent.shared.gaps import gap_event

SINCE, UNTIL = "2026-11-23T08:00:00.000000000Z", "2026-11-23T09:00:00.000000000Z"


def overflow(*identity: object, time: str = "") -> Event:
    return gap_event(
        *identity,
        source="docker",
        origin="web-01",
        reason="overflow",
        since=SINCE,
        until=UNTIL,
        detail="too many at once",
        lost=3,
        time=time,
    )


def test_a_gap_event_holds_its_span_and_its_source() -> None:
    assert overflow("docker", 7) == Event(
        id=event_id("docker", 7),
        time=UNTIL,
        origin="web-01",
        agent=AGENT_VERSION,
        body=Gap(
            source="docker",
            reason="overflow",
            since=SINCE,
            until=UNTIL,
            detail="too many at once",
            lost=3,
        ),
    )


def test_a_gap_event_can_have_another_time_than_its_end() -> None:
    assert overflow("docker", time=SINCE).time == SINCE


def test_the_identity_of_a_gap_decides_its_id() -> None:
    assert overflow("docker", 7).id == overflow("docker", 7, time=SINCE).id
    assert overflow("docker", 7).id != overflow("docker", 8).id


def test_the_clocks_of_the_system_are_those_of_the_machine() -> None:
    before = time.monotonic(), time.time_ns()
    now = SYSTEM_CLOCK.monotonic(), SYSTEM_CLOCK.wall_ns()
    after = time.monotonic(), time.time_ns()
    assert before[0] <= now[0] <= after[0]
    assert before[1] <= now[1] <= after[1]
    assert SYSTEM_CLOCK.boottime() >= SYSTEM_CLOCK.monotonic() - 1
