"""The rights of users who read: they receive events and answers, and can turn them into nothing."""

from __future__ import annotations

import asyncio
from contextlib import aclosing, suppress
from typing import Any

import msgspec
import pytest
from broker import wait_until
from broker_users import COLLECTORS, READERS, BrokerUser, LogIn, event_subject

from sematext_agent.shared.bus import BusError
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    EVENTS_STREAM,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    STATUS_SUBJECT,
)

STREAMS = ("EVENTS", "DEAD", "KV_cursors", "KV_hosts")


@pytest.mark.parametrize("user", [*sorted(READERS), ""])
async def test_a_reader_reads_stored_events_and_receives_new_ones(
    user: str, log_in: LogIn, forwarder: BrokerUser
) -> None:
    docker, lifecycle = await log_in("docker"), await log_in("lifecycle")
    await docker.bus.publish(event_subject("docker"), b"first", "1")
    await docker.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    await lifecycle.bus.put(HOSTS_BUCKET, "web-01", b"{}")
    reader = await log_in(user)
    received: list[str] = []

    async def receive(message: Any) -> None:
        received.append(message.subject)

    await reader.bus.subscribe("events.>", receive)
    async with (
        asyncio.timeout(10),
        aclosing(follow_messages(reader.bus, EVENTS_STREAM, "events.>", 1)) as messages,
    ):
        assert (await anext(messages)).data == b"first"
        await docker.bus.publish(event_subject("docker"), b"second", "2")
        assert (await anext(messages)).data == b"second"
    await wait_until(lambda: received == [event_subject("docker")])
    assert await reader.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
    assert await reader.bus.get(HOSTS_BUCKET, "web-01") == b"{}"
    assert (await reader.bus.request_api("STREAM.INFO.DEAD"))["state"]["messages"] == 0
    assert (await reader.bus.request_api("CONSUMER.INFO.EVENTS.forwarder"))["num_pending"] == 2
    assert reader.problems == []


# Subjects that a reader would name for an answer, and all requests that it may send.
AIMS = [
    "events.docker.web-01.x.y",
    "dead.events.docker.web-01.x",
    "$KV.cursors.docker.web-01",
    "$KV.hosts.web-01",
    "$JS.API.STREAM.PURGE.EVENTS",
    "$JS.API.STREAM.DELETE.DEAD",
    "$JS.API.CONSUMER.DELETE.EVENTS.forwarder",
]
REQUESTS = [
    ("STREAM.INFO.EVENTS", {}),
    ("STREAM.MSG.GET.EVENTS", {"seq": 1}),
    ("DIRECT.GET.EVENTS", {"seq": 1}),
    ("CONSUMER.INFO.EVENTS.forwarder", {}),
    # The message itself, and then one without a body, which would be the strongest order.
    ("CONSUMER.MSG.NEXT.EVENTS.spy", {"batch": 9, "no_wait": True}),
]


@pytest.mark.parametrize("user", ["tap", "console", ""])
async def test_an_answer_to_a_reader_can_become_no_event_cursor_or_order(
    user: str, log_in: LogIn, forwarder: BrokerUser
) -> None:
    """A request to JetStream names the subject of its answer, even one forbidden to the user."""
    docker = await log_in("docker")
    await docker.bus.publish(event_subject("docker"), b"{}", "1")
    await docker.bus.put(CURSORS_BUCKET, "docker.web-01", b"here")
    reader = await log_in(user)
    config = {"name": "spy", "ack_policy": "none", "filter_subject": "events.>"}
    await reader.bus.request_api(
        "CONSUMER.CREATE.EVENTS.spy.events.>", {"stream_name": "EVENTS", "config": config}
    )
    before = [await forwarder.bus.request_api(f"STREAM.INFO.{stream}") for stream in STREAMS]
    for aim in AIMS:
        for call, request in REQUESTS:
            await reader.bus.send(f"$JS.API.{call}", msgspec.json.encode(request), aim)
        # A consumer that pushes, with heartbeats that have no body.
        pushing = {
            **config,
            "name": f"to-{AIMS.index(aim)}",
            "deliver_subject": aim,
            "idle_heartbeat": 100_000_000,
        }
        with suppress(BusError):
            await reader.bus.request_api(
                f"CONSUMER.CREATE.EVENTS.{pushing['name']}.events.>",
                {"stream_name": "EVENTS", "config": pushing},
            )
    # The server answers in order; a few heartbeats would have come as well.
    await reader.bus.request_api("STREAM.INFO.EVENTS")
    await asyncio.sleep(0.5)
    after = [await forwarder.bus.request_api(f"STREAM.INFO.{stream}") for stream in STREAMS]
    assert [stream["state"]["last_seq"] for stream in after] == [
        stream["state"]["last_seq"] for stream in before
    ]
    assert [stream["state"]["messages"] for stream in after] == [1, 0, 1, 0]
    assert await docker.bus.get(CURSORS_BUCKET, "docker.web-01") == b"here"
    await forwarder.bus.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert reader.problems == []


async def test_every_service_answers_a_reader_and_on_no_other_subject(
    log_in: LogIn, forwarder: BrokerUser
) -> None:
    """A request names the subject of its answer, which must not become an event."""
    names = [*sorted(COLLECTORS), "console", "agentctl"]
    services = [*[await log_in(name) for name in names], forwarder]
    for service in services:

        async def answer(message: Any, service: BrokerUser = service) -> None:
            await service.bus.send(message.reply, b"{}")

        await service.bus.subscribe(STATUS_SUBJECT, answer)
        await service.bus.flush()
    readers = {user: await log_in(user) for user in ("", *READERS)}
    requests = [reader.bus.request_all(STATUS_SUBJECT, 0.5) for reader in readers.values()]
    for (user, reader), answers in zip(
        readers.items(), await asyncio.gather(*requests), strict=True
    ):
        # The console is in the account of readers, which no request of the other account reaches.
        assert len(answers) == len(services) - (user in ("replay", "agentctl"))
        assert not await reader.cannot_publish(STATUS_SUBJECT, reply=event_subject("elsewhere"))
    await wait_until(lambda: all(len(s.problems) for s in services))
    assert all("publish to events.elsewhere" in s.problems[0] for s in services)
