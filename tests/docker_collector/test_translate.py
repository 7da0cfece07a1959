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

from sematext_agent.docker_collector.buffer import EventLines
from sematext_agent.docker_collector.decoder import decode
from sematext_agent.docker_collector.message import EngineMessage, EngineObject, identify
from sematext_agent.docker_collector.pipeline import EventPipeline
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.docker_collector.translate import translate
from sematext_agent.shared.events import DockerEvent, Event, encode
from sematext_agent.shared.health import Health

FIXTURES = Path(__file__).parent / "fixtures"
CAPTURES = ("engine-20.10", "engine-29", "engine-29-read-as-1.41", "containerd-store")


class UnconnectedEngine:
    """A connection without an engine: the messages are all there is."""

    engine = None

    def request_snapshot(self) -> None:
        pass


def events_of(capture: str) -> list[Event]:
    """Return the events of a recorded stream."""
    settings = DockerSettings(hostname_alias="web-01", container_events_healthchecks=True)
    text = (FIXTURES / f"{capture}.jsonl").read_bytes().strip()

    async def process() -> list[Event]:
        pipeline = EventPipeline(
            settings,
            "host",
            EngineState("", b'{"address":""}'),
            UnconnectedEngine(),  # type: ignore[arg-type]
            Health("docker", "web-01"),
        )
        events = pipeline.process(EventLines([text]))
        return [event async for event in events if event is not None]

    return asyncio.run(process())


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


def test_an_engine_read_in_an_older_version_has_the_events_of_that_version() -> None:
    def count(capture: str) -> Counter[tuple[str, str, str]]:
        bodies = [event.body for event in events_of(capture)]
        return Counter(
            (body.type, body.action, body.actor_id)
            for body in bodies
            if isinstance(body, DockerEvent) and (body.type, body.action) != ("image", "create")
        )

    assert count("engine-29") == count("engine-29-read-as-1.41")


@pytest.mark.parametrize("capture", CAPTURES)
def test_no_two_messages_have_the_same_id_and_reading_again_gives_the_same(capture: str) -> None:
    first, again = ([event.id for event in events_of(capture)] for _ in range(2))
    assert first == again
    assert len(set(first)) == len(first)


def engine_message(
    action: str, kind: str = "container", scope: str = "local", **attributes: str
) -> EngineMessage:
    return decode(
        msgspec.json.encode(
            {
                "Type": kind,
                "Action": action,
                "Actor": {"ID": "c1", "Attributes": attributes},
                "scope": scope,
                "time": 1795423877,
                "timeNano": 1795423877628168185,
            }
        )
    )


def translated(message: EngineMessage, **facts: Any) -> DockerEvent:
    event = translate(message, "id", "web-01", EngineObject(**facts))
    assert isinstance(event.body, DockerEvent)
    assert event.time == "2026-11-23T08:51:17.628168185Z"
    return event.body


LABELS = {"exitCode": "0", "team": "blue"}


def test_a_label_is_not_taken_for_an_attribute() -> None:
    message = engine_message("die", image="nginx", name="web", **LABELS)
    assert translated(message, labels=LABELS).attributes == {"image": "nginx", "name": "web"}
    assert translated(message, labels=LABELS, exit_code=137).attributes["exitCode"] == "137"
    assert translated(message, labels=LABELS).labels == LABELS


@pytest.mark.parametrize(
    ("action", "attribute"),
    [("kill", "signal"), ("exec_die", "execID"), ("rename", "oldName"), ("commit", "imageID")],
)
def test_no_attribute_of_the_engine_can_be_given_by_a_label(action: str, attribute: str) -> None:
    message = engine_message(action, image="nginx", name="web", **{attribute: "spoofed"})
    assert attribute not in translated(message, labels={attribute: "spoofed"}).attributes


def test_a_label_called_name_or_image_does_not_hide_the_name_or_the_image() -> None:
    """The engine sets these two after it has copied the labels."""
    body = translated(
        engine_message("start", image="nginx", name="web"), labels={"image": "x", "name": "y"}
    )
    assert body.attributes == {"image": "nginx", "name": "web"}
    assert body.labels == {"image": "x", "name": "y"}


def test_of_an_unknown_container_only_attributes_of_its_action_are_taken() -> None:
    message = engine_message(
        "die", image="nginx", name="web", exitCode="137", team="blue", signal="9"
    )
    assert translated(message).attributes == {"image": "nginx", "name": "web", "exitCode": "137"}
    assert translated(message).labels == {"team": "blue", "signal": "9"}
    assert translated(engine_message("die", exitCode="spoofed")).attributes == {}


def test_an_attribute_of_a_newer_engine_stays_an_attribute_where_the_labels_are_known() -> None:
    message = engine_message("die", exitCode="1", cause="oom", team="blue")
    body = translated(message, labels={"team": "blue"})
    assert body.attributes == {"exitCode": "1", "cause": "oom"}


def test_an_image_label_called_image_is_a_label() -> None:
    body = translated(engine_message("tag", "image", name="web:1", image="spoofed"))
    assert (body.attributes, body.labels) == ({"name": "web:1"}, {"image": "spoofed"})


def test_unknown_types_and_actions_pass_through() -> None:
    body = translated(engine_message("teleport: far", "wormhole", where="away"))
    assert (body.type, body.action, body.attributes) == (
        "wormhole",
        "teleport: far",
        {"where": "away"},
    )


def test_a_message_without_attributes_or_nanoseconds_is_read() -> None:
    message = decode(
        b'{"Type":"daemon","Action":"x","Actor":{"ID":"d","Attributes":null},"time":5}'
    )
    assert message.time_ns == 5_000_000_000
    assert message.attributes == {}


def test_every_manager_of_a_swarm_gives_an_event_the_same_id() -> None:
    update = engine_message("update", "service", "swarm", name="web")
    assert identify(update, "host1") == identify(update, "host2")
    local = engine_message("start", name="web")
    assert identify(local, "host1") != identify(local, "host2")


def test_a_removal_in_a_swarm_has_one_id_at_every_manager() -> None:
    first = engine_message("remove", "service", "swarm", name="web")
    second = msgspec.structs.replace(first, time_ns=first.time_ns + 1)
    assert identify(first, "host1") == identify(second, "host2")


def test_the_id_of_a_command_line_does_not_hold_its_secret() -> None:
    """Whoever knows the rest of the event could try secrets until the id fits."""
    first, second = (engine_message(f"exec_start: mysql -p{secret}") for secret in ("one", "two"))
    assert first.action == second.action == "exec_start: mysql -p********"
    assert identify(first, "host") == identify(second, "host")
