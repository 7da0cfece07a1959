"""`agentctl dead`: what was refused can be seen, understood, and sent once more."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from broker import NatsServer

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

Start = Callable[..., Awaitable[Any]]

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


async def bury(connection: Bus, message_id: str) -> int:
    """Stores a dead letter as the forwarder does; returns its number."""
    headers = {
        DEAD_REASON_HEADER: "the receiver refused it: bad type",
        DEAD_STATUS_HEADER: "400",
        DEAD_SEQUENCE_HEADER: "7",
        DEAD_TIME_HEADER: "2026-11-23T15:04:05.000000000Z",
    }
    subject = dead_subject(subject_of(EVENT))
    return (await connection.publish(subject, encode(EVENT), message_id, headers)).seq


async def messages(connection: Bus, stream: str) -> list[Message]:
    """Everything in a stream."""
    info = await connection.request_api(f"STREAM.INFO.{stream}")
    config = {"ack_policy": "none", "deliver_policy": "all"}
    made = await connection.request_api(
        f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}
    )
    found: list[Message] = []
    if info["state"]["messages"]:
        async for message in connection.create_puller(stream, made["name"], 16):
            found.append(message)
            if not message.pending_count:
                break
    return found


async def run(start: Start, server: NatsServer, *arguments: object) -> Any:
    command = await start("-m", "sematext_agent.agentctl", "dead", *arguments, "--nats", server.url)
    await command.end()
    return command


async def test_the_list_says_what_it_was_and_why_it_was_refused(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await bury(streams, "a")
    listed = await run(start, nats_server, "list")
    (line,) = listed.out
    assert line.split()[0] == "1"
    assert line.endswith("agent started  <- 400 the receiver refused it: bad type")


async def test_an_empty_list_says_so(streams: Bus, nats_server: NatsServer, start: Start) -> None:
    assert (await run(start, nats_server, "list")).out == ["No event was refused."]


async def test_one_is_shown_whole(streams: Bus, nats_server: NatsServer, start: Start) -> None:
    await bury(streams, "a")
    shown = await run(start, nats_server, "show", 1)
    assert shown.out[:5] == [
        "subject   events.lifecycle.web-01.agent.started",
        "time      2026-11-23T15:04:05.000000000Z",
        "status    400",
        "reason    the receiver refused it: bad type",
        "sequence  7",
    ]
    assert '    "state": "started",' in shown.out


async def test_a_number_that_is_none_is_one_line(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    shown = await run(start, nats_server, "show", 99)
    assert shown.process.returncode == 1
    assert shown.err == ["agentctl: no dead letter has the number 99; see `agentctl dead list`"]


async def test_a_replay_is_on_its_subject_under_a_new_id_and_no_longer_dead(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await streams.publish(subject_of(EVENT), encode(EVENT), "a")  # as it was before it was refused
    await bury(streams, "a")
    await bury(streams, "b")
    replayed = await run(start, nats_server, "replay", 1)
    assert replayed.out == ["1 sent once more."]
    _, again = await messages(streams, "EVENTS")
    assert (again.subject, again.data) == (subject_of(EVENT), encode(EVENT))
    assert again.id == "a:replay:1"
    assert [message.id for message in await messages(streams, "DEAD")] == ["b"]


async def test_all_are_replayed_and_one_that_was_refused_twice_has_one_more_id(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await bury(streams, "a")
    await bury(streams, "a:replay:7")
    await run(start, nats_server, "replay", "--all")
    assert [m.id for m in await messages(streams, "EVENTS")] == ["a:replay:1", "a:replay:2"]
    assert await messages(streams, "DEAD") == []


async def test_a_replay_that_was_sent_but_not_removed_is_stored_once(
    streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    await bury(streams, "a")
    await streams.publish(subject_of(EVENT), encode(EVENT), "a:replay:1")
    await run(start, nats_server, "replay", 1)
    assert len(await messages(streams, "EVENTS")) == 1
    assert await messages(streams, "DEAD") == []


@pytest.mark.parametrize("arguments", [(), (1, "--all")])
async def test_a_replay_wants_numbers_or_all(
    streams: Bus, nats_server: NatsServer, start: Start, arguments: tuple[object, ...]
) -> None:
    replayed = await run(start, nats_server, "replay", *arguments)
    assert replayed.process.returncode == 1
    assert "or --all" in replayed.err[0]
