"""`agentctl dead`: dead letters are listed, shown whole, and replayed."""

from __future__ import annotations

import pytest
from broker import NatsServer
from commands import Command, Start

from sematext_agent.shared.bus import Bus, Message, StreamConfig
from sematext_agent.shared.events import AgentLifecycle, Event, encode, format_rfc3339
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    dead_subject,
    subject_of,
)

EVENT = Event(
    id="0" * 32,
    time=format_rfc3339(0),
    origin="web-01",
    agent="1",
    body=AgentLifecycle(state="started", run="r"),
)


@pytest.fixture
async def streams(connection: Bus) -> Bus:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.add_stream(StreamConfig(name="DEAD", subjects=["dead.>"]))
    return connection


async def dead_letter(connection: Bus, message_id: str) -> int:
    """Store a dead letter as the forwarder does; return its number."""
    headers = {
        DEAD_REASON_HEADER: "the receiver refused it: bad type",
        DEAD_STATUS_HEADER: "400",
        DEAD_SEQUENCE_HEADER: "7",
        DEAD_TIME_HEADER: "2026-11-23T15:04:05.000000000Z",
    }
    subject = dead_subject(subject_of(EVENT))
    return (await connection.publish(subject, encode(EVENT), message_id, headers)).seq


async def messages(connection: Bus, stream: str) -> list[Message]:
    """Return all messages of a stream."""
    info = await connection.request_api(f"STREAM.INFO.{stream}")
    config = {"ack_policy": "none", "deliver_policy": "all"}
    consumer = await connection.request_api(
        f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}
    )
    stored: list[Message] = []
    if info["state"]["messages"]:
        async for message in connection.create_puller(stream, consumer["name"], 16):
            stored.append(message)
            if not message.pending_count:
                break
    return stored


async def run(start: Start, server: NatsServer, *arguments: object) -> Command:
    command = await start("-m", "sematext_agent.agentctl", "dead", *arguments, "--nats", server.url)
    await command.end()
    return command


async def test_the_list_has_number_event_and_reason(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await dead_letter(streams, "a")
    listed = await run(start, nats_server, "list")
    (line,) = listed.out
    assert line.split()[0] == "1"
    assert line.endswith("agent started  <- 400 the receiver refused it: bad type")


async def test_an_empty_list_is_one_line(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    assert (await run(start, nats_server, "list")).out == ["There are no dead letters."]


async def test_a_dead_letter_is_shown_whole(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await dead_letter(streams, "a")
    shown = await run(start, nats_server, "show", 1)
    assert shown.out[:5] == [
        "subject   events.lifecycle.web-01.agent.started",
        "time      2026-11-23T15:04:05.000000000Z",
        "status    400",
        "reason    the receiver refused it: bad type",
        "sequence  7",
    ]
    assert '    "state": "started",' in shown.out


async def test_an_unknown_number_is_one_line(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    shown = await run(start, nats_server, "show", 99)
    assert shown.process.returncode == 1
    assert shown.err == ["agentctl: no dead letter has the number 99; see `agentctl dead list`"]


async def test_a_replayed_dead_letter_becomes_an_event_with_a_new_id_and_is_removed(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await streams.publish(
        subject_of(EVENT), encode(EVENT), "a"
    )  # the event that became the dead letter
    await dead_letter(streams, "a")
    await dead_letter(streams, "b")
    replayed = await run(start, nats_server, "replay", 1)
    assert replayed.out == ["1 replayed."]
    _, again = await messages(streams, "EVENTS")
    assert (again.subject, again.data) == (subject_of(EVENT), encode(EVENT))
    assert again.id == "a:replay:1"
    assert [message.id for message in await messages(streams, "DEAD")] == ["b"]


async def test_all_are_replayed_and_a_dead_letter_of_a_replay_gets_a_new_id_again(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await dead_letter(streams, "a")
    await dead_letter(streams, "a:replay:7")
    await run(start, nats_server, "replay", "--all")
    assert [m.id for m in await messages(streams, "EVENTS")] == ["a:replay:1", "a:replay:2"]
    assert await messages(streams, "DEAD") == []


async def test_a_replay_that_was_interrupted_before_its_removal_is_stored_once(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await dead_letter(streams, "a")
    await streams.publish(subject_of(EVENT), encode(EVENT), "a:replay:1")
    await run(start, nats_server, "replay", 1)
    assert len(await messages(streams, "EVENTS")) == 1
    assert await messages(streams, "DEAD") == []


@pytest.mark.parametrize("arguments", [(), (1, "--all")])
async def test_a_replay_needs_numbers_or_all(
    streams: Bus, nats_server: NatsServer, start: Start, arguments: tuple[object, ...]
) -> None:
    replayed = await run(start, nats_server, "replay", *arguments)
    assert replayed.process.returncode == 1
    assert "or --all" in replayed.err[0]
