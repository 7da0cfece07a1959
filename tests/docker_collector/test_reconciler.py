"""Synthetic events: the difference between the recorded containers and a snapshot."""

from __future__ import annotations

import pytest

from sematext_agent.docker_collector import reconciler
from sematext_agent.docker_collector.engine import EngineContainer, Snapshot
from sematext_agent.docker_collector.state import ContainerState
from sematext_agent.shared.events import NS_PER_SECOND, DockerEvent

NOW = 1000 * NS_PER_SECOND


def seconds(number: float) -> int:
    return int(number * NS_PER_SECOND)


def exists(running: bool = False, started: float = 0, finished: float = 0) -> EngineContainer:
    return EngineContainer(
        "c1",
        "web",
        "nginx",
        {},
        running,
        created_ns=seconds(1),
        started_ns=seconds(started),
        finished_ns=seconds(finished),
        exit_code=None if running else 3,
    )


def record(running: bool, since: float) -> ContainerState:
    return ContainerState("web", "nginx", running, seconds(since))


RUNS, ENDED = exists(True, 100), exists(False, 100, 200)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (record(True, 100), RUNS, []),
        (record(True, 100), ENDED, ["die"]),
        (record(False, 200), ENDED, []),
        (record(False, 50), RUNS, ["start"]),
        (None, RUNS, ["create", "start"]),
        (None, ENDED, ["create", "start", "die"]),
        (None, exists(), ["create"]),
        (record(True, 100), None, ["die", "destroy"]),
        (record(False, 100), None, ["destroy"]),
        # It was restarted in between: its end and its new start were missed.
        (record(True, 100), exists(True, 300, 200), ["die", "start"]),
        # A whole run in between.
        (record(False, 50), exists(False, 100, 200), ["start", "die"]),
        # An engine starts a container a moment before the time it reports.
        (record(True, 100.2), exists(True, 100, 50), []),
        # When it started is not known: a running container that was running is left alone.
        (record(True, 0), exists(True, 100, 50), []),
        # The messages are newer than the snapshot.
        (record(True, 300), ENDED, []),
        (record(False, 300), RUNS, []),
        (record(False, 2000), None, []),
    ],
)
def test_only_unreported_actions_become_events(
    before: ContainerState | None, now: EngineContainer | None, expected: list[str]
) -> None:
    snapshot = Snapshot({"c1": now} if now else {}, {}, NOW)
    actions = reconciler.compare({"c1": before} if before else {}, {}, snapshot)
    assert [action for action, _, _ in actions] == expected


def test_a_container_destroyed_after_the_snapshot_is_not_created_again() -> None:
    assert reconciler.compare({}, {"c1"}, Snapshot({"c1": RUNS}, {}, NOW)) == []


def test_a_synthetic_event_is_marked_and_has_a_stable_id() -> None:
    first, again = (
        reconciler.synthetic_event("die", seconds(200), ENDED, "host", "web-01") for _ in range(2)
    )
    assert first == again
    assert isinstance(first.body, DockerEvent)
    assert first.body.synthetic
    assert first.body.attributes == {"image": "nginx", "name": "web", "exitCode": "3"}
    assert first.time == "1970-01-01T00:03:20.000000000Z"
    start = reconciler.synthetic_event("start", seconds(200), ENDED, "host", "web-01")
    assert start.id != first.id


def test_the_end_of_a_removed_container_has_one_id_at_any_time() -> None:
    removed = EngineContainer("c1", "web", "nginx", {}, running=False)
    ids = {
        reconciler.synthetic_event("die", seconds(at), removed, "host", "web").id for at in (1, 2)
    }
    assert len(ids) == 1
