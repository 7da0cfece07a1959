"""Documents on standard output, and the token, which shows nowhere."""

from __future__ import annotations

import json

import pytest
from broker import wait_until
from forwarding import (
    Publisher,
    Start,
    an_encoded_event,
    dead_letters,
    until_acknowledged,
)
from receiver import TOKEN, Receiver, Reply, Request

from sematext_agent.shared import bus
from sematext_agent.shared.settings import Duration, Secret


async def test_dry_run_prints_every_document_and_sends_none(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    await start(infra_token=Secret(""))
    ids = await publisher.publish(5)
    await until_acknowledged(connection)
    printed = [json.loads(line)["event.id"] for line in capsys.readouterr().out.splitlines()]
    assert sorted(printed) == sorted(ids)
    assert not receiver.requests
    assert caplog.text.count("dry run: no INFRA_TOKEN") == 1


async def test_sent_documents_are_printed_where_the_setting_asks_for_it(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Without the token, even where an event's own text has it."""
    await start(logging_write_events=True, tags=("env:dev",))
    action = f"exec_start: curl {receiver.url}/{TOKEN}/event"
    body = {"event": "docker", "type": "container", "actor_id": "x", "action": action}
    await connection.publish("events.docker.x", an_encoded_event(body=body), "x")
    await publisher.publish(2)
    await wait_until(lambda: len(receiver.stored) == 3)
    await until_acknowledged(connection)
    out = capsys.readouterr().out
    printed = [json.loads(line) for line in out.splitlines()]
    assert [document["tags"][1:] for document in printed] == [["env:dev"]] * 3
    assert TOKEN not in out


async def test_the_token_shows_nowhere(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A canary through every failure mode: not in a log, a metric, the report, a dead letter."""
    caplog.set_level("DEBUG")
    error = f'{{"error": "Application not found for token {TOKEN}"}}'.encode()
    plain = f"<p>/{TOKEN}/event/{TOKEN.upper()}</p>".encode()
    location = {"Location": f"{receiver.url}/{TOKEN}/event"}
    forwarder = await start(
        request_timeout=Duration(0.2), logging_write_events=True, logging_request_tracking=True
    )

    def reply(request: Request) -> Reply:
        modes = [
            Reply(403, error),
            Reply(400, plain),
            Reply(500, error),
            Reply(302, b"", location),
            Reply(429, plain),
            Reply(how="hang"),
            Reply(how="cut"),
            Reply(how="garbage"),
            Reply(how="reset"),
            Reply(503, error),
            Reply(400, error),
            Reply(),
        ]
        return modes[len(receiver.requests) % len(modes)]

    receiver.reply = reply
    action = f"exec_start: curl {receiver.url}/{TOKEN}/event"
    event = an_encoded_event(
        body={"event": "docker", "type": "container", "actor_id": "x", "action": action}
    )
    await connection.publish("events.docker.x", event, "with-token")
    await publisher.publish(40)
    await connection.publish("events.docker.x", TOKEN.encode(), "unreadable")
    await wait_until(lambda: len(receiver.requests) > 48, 20)  # every mode four times
    report = repr(forwarder.health.report())
    metrics = forwarder.metrics()
    letters = [letter["headers"] for letter in await dead_letters(connection)]
    await forwarder.stop()
    captured = capsys.readouterr()
    for text in (captured.out, captured.err, caplog.text, report, metrics, repr(letters)):
        assert TOKEN not in text.lower()
