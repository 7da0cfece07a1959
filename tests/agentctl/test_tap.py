"""`agentctl tap` against a real nats-server: recent events, live ones, filters, and a restart."""

from __future__ import annotations

import argparse
import datetime
import json
import signal
from typing import Any

import pytest
from broker import NatsServer, wait_until
from commands import Start

from sematext_agent.agentctl.__main__ import main
from sematext_agent.agentctl.state import CommandError
from sematext_agent.agentctl.tap import subject_for
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import DockerEvent, Event, encode, format_rfc3339
from sematext_agent.shared.subjects import subject_of


@pytest.fixture
async def events(connection: Bus) -> Bus:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    return connection


async def publish_start(connection: Bus, name: str, origin: str = "web-01") -> Event:
    """Publish the start of a container of that name."""
    now = int(datetime.datetime.now(datetime.UTC).timestamp()) * 10**9
    body = DockerEvent(type="container", action="start", actor_id="0", attributes={"name": name})
    event = Event(
        id=f"{origin} {name}", time=format_rfc3339(now), origin=origin, agent="1", body=body
    )
    await connection.publish(subject_of(event), encode(event), event.id)
    return event


async def test_recent_events_come_first_and_then_live_ones(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await publish_start(events, "recent")
    tap = await start("-m", "sematext_agent.agentctl", "tap", "--nats", nats_server.url)
    await tap.shows("docker     web-01  container recent start")
    await publish_start(events, "live")
    await tap.shows("container live start")
    assert len(tap.out) == 2
    assert await tap.end(signal.SIGINT) == 130
    assert tap.err == []


async def test_json_is_the_event_as_it_is_stored(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    event = await publish_start(events, "web")
    tap = await start("-m", "sematext_agent.agentctl", "tap", "--json", "--nats", nats_server.url)
    assert json.loads(await tap.shows("web")) == json.loads(encode(event))


async def test_filters_select_by_subject_source_origin_and_text(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await publish_start(events, "web")
    await publish_start(events, "web", origin="db.example")
    await publish_start(events, "last")
    for arguments, line in {
        ("events.docker.db_example.>",): "db.example  container web",
        ("--origin", "db.example"): "db.example  container web",
        ("--source", "docker", "--grep", "LAST"): "container last",
    }.items():
        tap = await start(
            "-m", "sematext_agent.agentctl", "tap", *arguments, "--nats", nats_server.url
        )
        await tap.shows(line)
        assert len(tap.out) == 1, tap.out
        await tap.end(signal.SIGINT)


async def test_since_excludes_older_events(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await publish_start(events, "old")
    tap = await start(
        "-m", "sematext_agent.agentctl", "tap", "--since", "0s", "--nats", nats_server.url
    )
    await wait_for_consumer(events)
    await publish_start(events, "new")
    await tap.shows("container new")
    assert len(tap.out) == 1


async def wait_for_consumer(connection: Bus) -> None:
    while not (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["consumer_count"]:
        pass


async def test_a_restart_of_the_broker_neither_ends_the_tap_nor_repeats_an_event(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await publish_start(events, "before")
    tap = await start("-m", "sematext_agent.agentctl", "tap", "--nats", nats_server.url)
    await tap.shows("container before")
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not events.is_connected)
    nats_server.start()
    await wait_until(lambda: events.is_connected)
    await publish_start(events, "after")
    await tap.shows("container after")
    assert [line.split()[-2] for line in tap.out] == ["before", "after"]
    assert tap.err == ["agentctl: the broker is away", "agentctl: the broker is back"]


async def test_a_message_that_is_no_event_is_shown_escaped(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await events.publish("events.x.y.z.a", b"\x1b[31mred\n", "1")
    words = await start("-m", "sematext_agent.agentctl", "tap", "--nats", nats_server.url)
    raw = await start("-m", "sematext_agent.agentctl", "tap", "--json", "--nats", nats_server.url)
    await words.shows("events.x.y.z.a: 9 bytes that are no event")
    await raw.shows(r"\u001b[31mred\n")


async def test_a_reader_that_closes_the_pipe_is_no_error(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    for number in range(3):
        await publish_start(events, f"web-{number}")
    script = 'set -o pipefail; "$0" -m sematext_agent.agentctl tap --nats "$1" | head -n 1'
    program = f"import subprocess, sys; sys.exit(subprocess.call(['bash', '-c', {script!r}, sys.executable, {nats_server.url!r}]))"  # noqa: E501
    tap = await start("-c", program)
    await tap.shows("container web-0")
    await publish_start(events, "an event for the closed pipe")
    assert await tap.end() == 0
    assert tap.err == []


async def test_without_a_broker_one_line_has_a_remedy(start: Start) -> None:
    tap = await start("-m", "sematext_agent.agentctl", "tap", "--nats", "nats://127.0.0.1:1")
    assert await tap.end() == 1
    (line,) = tap.err
    assert line.startswith("agentctl: no broker at nats://127.0.0.1:1 (Connection refused); ")
    assert "agentctl up" in line


def options(**values: Any) -> argparse.Namespace:
    return argparse.Namespace(**({"subject": None, "source": None, "origin": None} | values))


def test_the_subject_of_the_filters() -> None:
    assert subject_for(options()) == "events.>"
    assert subject_for(options(source="docker")) == "events.docker.*.>"
    assert subject_for(options(origin="a.b")) == "events.*.a_b.>"
    assert subject_for(options(subject="dead.>")) == "dead.>"
    assert subject_for(options(subject="events.*.web-01.>")) == "events.*.web-01.>"
    with pytest.raises(CommandError, match="leave --source"):
        subject_for(options(subject="events.>", source="docker"))


@pytest.mark.parametrize(
    "subject", ["docker.>", "events..x", "events.>.x", "events.a b", "eventsx"]
)
def test_a_subject_that_no_event_can_have_is_rejected(subject: str) -> None:
    """The broker would accept some of these, and the tap would wait for ever."""
    with pytest.raises(CommandError, match="no event has such a subject; write it like"):
        subject_for(options(subject=subject))


def test_a_time_that_is_no_duration_is_one_line_with_examples(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(SystemExit):
        main(["tap", "--since", "yesterday"])
    problem = capsys.readouterr().err.splitlines()[-1]
    assert problem.endswith("--since: 'yesterday' is no duration, such as 30s, 10m or 2h")
