"""One readable line for every kind of event."""

from __future__ import annotations

import datetime

import pytest

from sematext_agent.shared import summary
from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    format_rfc3339,
)

ID = "0123456789abcdef" * 4

LINES: dict[str, Body] = {
    "container web start (image nginx)": DockerEvent(
        type="container", action="start", actor_id=ID, attributes={"name": "web", "image": "nginx"}
    ),
    "container web die (image nginx, exit code 137, found later)": DockerEvent(
        type="container",
        action="die",
        actor_id=ID,
        synthetic=True,
        attributes={"name": "web", "image": "nginx", "exitCode": "137"},
    ),
    "container 0123456789ab exec_start: sh -c ls": DockerEvent(
        type="container", action="exec_start: sh -c ls", actor_id=ID
    ),
    "container shop rename (was web)": DockerEvent(
        type="container",
        action="rename",
        actor_id=ID,
        attributes={"name": "shop", "oldName": "/web"},
    ),
    "network bridge connect (container 0123456789ab)": DockerEvent(
        type="network",
        action="connect",
        actor_id="f" * 64,
        attributes={"name": "bridge", "container": ID},
    ),
    "volume prune": DockerEvent(type="volume", action="prune", actor_id=""),
    "WARNING Pod default/web-1 BackOff (x5): Back-off restarting": KubernetesEvent(
        uid="u",
        resource_version="1",
        reason="BackOff",
        message="Back-off restarting",
        type="Warning",
        namespace="default",
        kind="Pod",
        name="web-1",
        count=5,
    ),
    "Node worker NodeReady: it is ready": KubernetesEvent(
        uid="u",
        resource_version="1",
        reason="NodeReady",
        message="it is ready",
        kind="Node",
        name="worker",
    ),
    "process java (4242) killed for lack of memory, it had 512.0 MiB": OutOfMemory(
        process="java", pid=4242, memory=512 * 1024**2
    ),
    "process java (4242) killed for lack of memory, it had 1.5 GiB in web": OutOfMemory(
        process="java", pid=4242, memory=1536 * 1024**2, container_id=ID, container_name="web"
    ),
    "deb package nginx 1.24 installed (was 1.22, in 0123456789ab)": PackageChange(
        change="installed",
        manager="deb",
        name="nginx",
        version="1.24",
        previous_version="1.22",
        container_id=ID,
    ),
    "rpm package bash 5.2 removed": PackageChange(
        change="removed", manager="rpm", name="bash", version="5.2"
    ),
    "agent started": AgentLifecycle(state="started", run="r"),
    "agent stopped": AgentLifecycle(state="stopped", run="r"),
    "agent stopped without a word; it was last alive then": AgentLifecycle(
        state="stopped", run="r", clean=False
    ),
    "GAP in docker (overflow), ? to ?, 3 lost: too many at once": Gap(
        source="docker",
        reason="overflow",
        since="?",
        until="?",
        lost=3,
        detail="too many at once",
    ),
    "GAP in docker (expired), ? to ?": Gap(source="docker", reason="expired", since="?", until="?"),
}


@pytest.mark.parametrize("expected", LINES)
def test_the_summary_of_a_body(expected: str) -> None:
    assert summary.summarize(LINES[expected]) == expected


def test_a_line_has_the_time_the_source_and_the_origin() -> None:
    now = datetime.datetime.now().astimezone()
    body = AgentLifecycle(state="started", run="r")
    time = format_rfc3339(int(now.timestamp()) * 10**9 + 45_678_901)
    event = Event(id="1", time=time, origin="web-01", agent="1", body=body)
    assert (
        summary.format_event_line(event) == f"{now:%H:%M:%S}.045 lifecycle  web-01  agent started"
    )


def test_a_time_of_another_day_has_its_date() -> None:
    then = datetime.datetime(2026, 11, 22, 15, 4, 5).astimezone()
    local_time = summary.format_local_time(
        format_rfc3339(int(then.timestamp()) * 10**9), then + datetime.timedelta(days=1)
    )
    assert local_time == "2026-11-22 15:04:05.000"


@pytest.mark.parametrize("time", ["", "yesterday", "99999-01-01T00:00:00Z"])
def test_a_text_that_is_no_time_is_shown_as_it_is(time: str) -> None:
    assert summary.format_local_time(time) == time


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, "0 s"), (59.9, "59 s"), (60, "1 m"), (3725, "1 h 2 m"), (90061, "1 d 1 h")],
)
def test_a_duration_has_its_two_largest_units(seconds: float, expected: str) -> None:
    assert summary.format_duration(seconds) == expected


@pytest.mark.parametrize(
    ("count", "expected"), [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (2**40, "1.0 TiB")]
)
def test_a_size_has_a_unit(count: int, expected: str) -> None:
    assert summary.format_bytes(count) == expected
