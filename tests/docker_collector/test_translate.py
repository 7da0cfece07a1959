"""Recorded messages of real engines become the events that are kept beside them.

The captures hold every line of `GET /events` of Docker Engine 20.10 (API 1.41), of moby's main
branch (API 1.56), of the same run read as API 1.41, and of the containerd image store. To renew a
golden file after a wanted change, delete it: the test writes it anew, and fails once.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from pathlib import Path
from typing import Any

import msgspec
import pytest

from sematext_agent.docker_collector.backlog import Lines
from sematext_agent.docker_collector.follow import Follower
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import State
from sematext_agent.docker_collector.translate import Known, Message, decode, identity, translate
from sematext_agent.shared.events import DockerEvent, Event, encode
from sematext_agent.shared.health import Health

FIXTURES = Path(__file__).parent / "fixtures"
CAPTURES = ("engine-20.10", "engine-29", "engine-29-read-as-1.41", "containerd-store")


class NoEngine:
    """Nobody to ask: all that is known was in the messages."""

    engine = None

    def want_snapshot(self) -> None:
        pass


def events_of(capture: str) -> list[Event]:
    """The events of a recorded stream."""
    settings = DockerSettings(hostname_alias="web-01", container_events_healthchecks=True)
    text = (FIXTURES / f"{capture}.jsonl").read_bytes().strip()

    async def follow() -> list[Event]:
        follower = Follower(
            settings,
            "host",
            0,
            State("", b'{"address":""}'),
            NoEngine(),  # type: ignore[arg-type]
            Health("docker", "web-01"),
        )
        return [event async for event in follower.take(Lines([text])) if event is not None]

    return asyncio.run(follow())


@pytest.mark.parametrize("capture", CAPTURES)
def test_every_recorded_message_becomes_the_event_kept_beside_it(capture: str) -> None:
    golden = FIXTURES / f"{capture}.events.jsonl"
    events = events_of(capture)
    assert len(events) == len((FIXTURES / f"{capture}.jsonl").read_text().splitlines())
    lines = [encode(event).decode() for event in events]
    if not golden.exists():
        golden.write_text("\n".join(lines) + "\n")
        pytest.fail(f"{golden.name} was missing and has been written: look at it, and keep it")
    kept = golden.read_text().splitlines()
    for line, expected in zip(lines, kept, strict=True):
        assert json.loads(line) == json.loads(expected)


def test_an_engine_read_in_an_older_version_tells_the_same_but_for_what_that_version_hides() -> (
    None
):
    def told(capture: str) -> Counter[tuple[str, str, str]]:
        bodies = [event.body for event in events_of(capture)]
        return Counter(
            (body.type, body.action, body.actor_id)
            for body in bodies
            if isinstance(body, DockerEvent) and (body.type, body.action) != ("image", "create")
        )

    assert told("engine-29") == told("engine-29-read-as-1.41")


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_two_messages_have_the_same_id_and_reading_again_gives_the_same(capture: str) -> None:
    first, again = ([event.id for event in events_of(capture)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


def raw(action: str, kind: str = "container", scope: str = "local", **given: str) -> Message:
    return decode(
        msgspec.json.encode(
            {
                "Type": kind,
                "Action": action,
                "Actor": {"ID": "c1", "Attributes": given},
                "scope": scope,
                "time": 1795423877,
                "timeNano": 1795423877628168185,
            }
        )
    )


def told(message: Message, **known: Any) -> DockerEvent:
    event = translate(message, "id", "web-01", Known(**known))
    assert isinstance(event.body, DockerEvent)
    assert event.time == "2026-11-23T08:51:17.628168185Z"
    return event.body


LABELS = {"exitCode": "0", "team": "blue"}


def test_a_label_does_not_pass_for_an_attribute() -> None:
    message = raw("die", image="nginx", name="web", **LABELS)
    assert told(message, labels=LABELS).attributes == {"image": "nginx", "name": "web"}
    assert told(message, labels=LABELS, exit_code=137).attributes["exitCode"] == "137"
    assert told(message, labels=LABELS).labels == LABELS


@pytest.mark.parametrize(
    ("action", "attribute"),
    [("kill", "signal"), ("exec_die", "execID"), ("rename", "oldName"), ("commit", "imageID")],
)
def test_no_attribute_of_the_engine_can_be_given_by_a_label(action: str, attribute: str) -> None:
    message = raw(action, image="nginx", name="web", **{attribute: "spoofed"})
    assert attribute not in told(message, labels={attribute: "spoofed"}).attributes


def test_a_label_called_name_or_image_does_not_hide_the_name_or_the_image() -> None:
    """The engine sets these two after it has copied the labels."""
    body = told(raw("start", image="nginx", name="web"), labels={"image": "x", "name": "y"})
    assert body.attributes == {"image": "nginx", "name": "web"}
    assert body.labels == {"image": "x", "name": "y"}


def test_of_an_unknown_container_only_the_actions_own_attributes_are_believed() -> None:
    message = raw("die", image="nginx", name="web", exitCode="137", team="blue", signal="9")
    assert told(message).attributes == {"image": "nginx", "name": "web", "exitCode": "137"}
    assert told(message).labels == {"team": "blue", "signal": "9"}
    assert told(raw("die", exitCode="spoofed")).attributes == {}


def test_an_attribute_of_a_newer_engine_stays_an_attribute_where_the_labels_are_known() -> None:
    message = raw("die", exitCode="1", cause="oom", team="blue")
    body = told(message, labels={"team": "blue"})
    assert body.attributes == {"exitCode": "1", "cause": "oom"}


def test_an_image_label_called_image_is_a_label() -> None:
    body = told(raw("tag", "image", name="web:1", image="spoofed"))
    assert (body.attributes, body.labels) == ({"name": "web:1"}, {"image": "spoofed"})


def test_unknown_types_and_actions_pass_through() -> None:
    body = told(raw("teleport: far", "wormhole", where="away"))
    assert (body.type, body.action, body.attributes) == (
        "wormhole",
        "teleport: far",
        {"where": "away"},
    )


def test_a_message_without_attributes_or_nanoseconds_is_read() -> None:
    message = decode(
        b'{"Type":"daemon","Action":"x","Actor":{"ID":"d","Attributes":null},"time":5}'
    )
    assert message.nanoseconds == 5_000_000_000
    assert message.attributes == {}


def test_every_manager_of_a_swarm_gives_an_event_the_same_id() -> None:
    update = raw("update", "service", "swarm", name="web")
    assert identity(update, "host1") == identity(update, "host2")
    local = raw("start", name="web")
    assert identity(local, "host1") != identity(local, "host2")


def test_a_removal_in_a_swarm_has_one_id_whenever_a_manager_sees_it() -> None:
    first = raw("remove", "service", "swarm", name="web")
    second = msgspec.structs.replace(first, nanoseconds=first.nanoseconds + 1)
    assert identity(first, "host1") == identity(second, "host2")


def test_the_id_of_a_command_line_does_not_hold_its_secret() -> None:
    """Whoever knows the rest of the event could try secrets until the id fits."""
    first, second = (raw(f"exec_start: mysql -p{secret}") for secret in ("one", "two"))
    assert first.action == second.action == "exec_start: mysql -p********"
    assert identity(first, "host") == identity(second, "host")
