"""What a comparison of two moments tells of the time between them."""

from __future__ import annotations

import pytest

from sematext_agent.docker_collector import reconcile
from sematext_agent.docker_collector.engine import Container, Snapshot
from sematext_agent.docker_collector.state import Seen
from sematext_agent.shared.events import NS_PER_SECOND, DockerEvent

NOW = 1000 * NS_PER_SECOND


def seconds(number: float) -> int:
    return int(number * NS_PER_SECOND)


def exists(running: bool = False, started: float = 0, finished: float = 0) -> Container:
    return Container(
        "c1",
        "web",
        "nginx",
        {},
        running,
        created=seconds(1),
        started=seconds(started),
        finished=seconds(finished),
        exit_code=None if running else 3,
    )


def seen(running: bool, since: float) -> Seen:
    return Seen("web", "nginx", running, seconds(since))


RUNS, ENDED = exists(True, 100), exists(False, 100, 200)


@pytest.mark.parametrize(
    ("before", "now", "expected"),
    [
        (seen(True, 100), RUNS, []),
        (seen(True, 100), ENDED, ["die"]),
        (seen(False, 200), ENDED, []),
        (seen(False, 50), RUNS, ["start"]),
        (None, RUNS, ["create", "start"]),
        (None, ENDED, ["create", "start", "die"]),
        (None, exists(), ["create"]),
        (seen(True, 100), None, ["die", "destroy"]),
        (seen(False, 100), None, ["destroy"]),
        # It was restarted in between: its end and its new start were missed.
        (seen(True, 100), exists(True, 300, 200), ["die", "start"]),
        # A whole run in between.
        (seen(False, 50), exists(False, 100, 200), ["start", "die"]),
        # An engine starts a container a moment before it tells the time of it.
        (seen(True, 100.2), exists(True, 100, 50), []),
        # When it started is not known: a running container that was running is left alone.
        (seen(True, 0), exists(True, 100, 50), []),
        # What was read is newer than the snapshot.
        (seen(True, 300), ENDED, []),
        (seen(False, 300), RUNS, []),
        (seen(False, 2000), None, []),
    ],
)
def test_only_what_was_not_told_is_made_up_for(
    before: Seen | None, now: Container | None, expected: list[str]
) -> None:
    snapshot = Snapshot({"c1": now} if now else {}, {}, NOW)
    found = reconcile.missing({"c1": before} if before else {}, {}, snapshot)
    assert [action for action, _, _ in found] == expected


def test_what_was_destroyed_after_the_snapshot_is_not_created_again() -> None:
    assert reconcile.missing({}, {"c1"}, Snapshot({"c1": RUNS}, {}, NOW)) == []


def test_a_synthetic_event_says_so_and_has_the_same_id_whenever_it_is_made() -> None:
    first, again = (
        reconcile.synthetic("die", seconds(200), ENDED, "host", "web-01") for _ in range(2)
    )
    assert first == again
    assert isinstance(first.body, DockerEvent)
    assert first.body.synthetic
    assert first.body.attributes == {"image": "nginx", "name": "web", "exitCode": "3"}
    assert first.time == "1970-01-01T00:03:20.000000000Z"
    start = reconcile.synthetic("start", seconds(200), ENDED, "host", "web-01")
    assert start.id != first.id


def test_the_end_of_what_is_gone_has_one_id_whenever_it_is_noticed() -> None:
    gone = Container("c1", "web", "nginx", {}, running=False)
    ids = {reconcile.synthetic("die", seconds(at), gone, "host", "web").id for at in (1, 2)}
    assert len(ids) == 1
