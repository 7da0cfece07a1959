"""One forwarder, a real broker, and a receiver with every outcome: each event arrives, once.

`verify` is the oracle: every id that JetStream acknowledged is stored at the receiver, none else,
and no more often than the fault allows.
"""

from __future__ import annotations

import asyncio
import email.utils
import json
import signal
import time
from typing import Any

import msgspec
import pytest
from broker import NatsServer, eventually
from forwarding import Oracle, Publisher, Start, an_event, dead_letters
from receiver import TOKEN, Receiver, Reply, Request

from sematext_agent.forwarder import consumers
from sematext_agent.forwarder import ship as ship_module
from sematext_agent.shared import bus
from sematext_agent.shared.events import AgentLifecycle, HostFacts, encode, event_id
from sematext_agent.shared.settings import Duration, Secret
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    HOSTS_BUCKET,
    bucket_key,
    replay_id,
    subject_of,
)


async def acknowledged(connection: bus.Bus) -> bool:
    """Whether everything in the stream was delivered, and JetStream waits for no word on it."""
    last = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["last_seq"]
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    waiting = info["num_pending"] + info["num_ack_pending"]
    return bool(info["delivered"]["stream_seq"] == last and not waiting)


async def until_acknowledged(connection: bus.Bus, seconds: float = 10) -> None:
    async with asyncio.timeout(seconds):
        while not await acknowledged(connection):
            await asyncio.sleep(0.02)


async def test_everything_arrives_once(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    forwarder = await start()
    await publisher.publish(1000)
    await verify()
    await until_acknowledged(connection)
    assert forwarder.receiver_says[0]
    assert forwarder.figure("events_held") == 0


@pytest.mark.parametrize(
    "reply",
    [
        Reply(500),
        Reply(502),
        Reply(503),
        Reply(408),
        Reply(425),
        Reply(429),
        Reply(how="cut"),
        Reply(how="reset"),
        Reply(how="garbage"),
        Reply(how="hang"),
    ],
)
async def test_try_again(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    reply: Reply,
    connection: bus.Bus,
) -> None:
    """After the fault: nothing is lost. A receiver that stored and then failed to say so gets some
    events twice, which nothing can prevent."""
    receiver.replies.extend([reply] * 4)
    await start(request_timeout=Duration(0.3))
    await publisher.publish(30)
    lost_words = 4 if reply.how != "answer" else 0
    await verify(duplicates_max=2 * lost_words)
    await until_acknowledged(connection)


@pytest.mark.parametrize("form", ["seconds", "date"])
async def test_retry_after_is_obeyed_by_the_whole_flow(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, form: str
) -> None:
    await start()
    await publisher.publish(1)
    await verify()
    at = email.utils.formatdate(time.time() + 3, usegmt=True)
    receiver.replies.append(Reply(429, headers={"Retry-After": "2" if form == "seconds" else at}))
    await publisher.publish(1)
    await eventually(lambda: len(receiver.requests) == 2)
    began = time.monotonic()
    await publisher.publish(20)
    await asyncio.sleep(0.8)
    assert len(receiver.requests) == 2
    await verify()
    assert time.monotonic() - began >= 1


async def test_refused_event_becomes_a_dead_letter_after_one_confirmation(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    forwarder = await start()
    receiver.replies.extend([Reply(400, b'{"error": "no such field"}')] * 2)
    (refused,) = await publisher.publish()
    await eventually(lambda: len(receiver.requests) == 2)
    (good,) = await publisher.publish()
    await eventually(lambda: set(receiver.stored) == {good})
    await until_acknowledged(connection)
    (letter,) = await dead_letters(connection)
    assert letter["subject"] == "dead.events.lifecycle.web-01.agent.started"
    assert json.loads(letter["data"])["id"] == refused
    headers = letter["headers"]
    assert headers["Nats-Msg-Id"] == refused
    assert headers[DEAD_STATUS_HEADER] == "400"
    assert headers[DEAD_SEQUENCE_HEADER] == "1"
    assert headers[DEAD_REASON_HEADER] == "answered 400: no such field"
    assert headers[DEAD_TIME_HEADER].endswith("Z")
    assert 'refused_total{reason="400",service="forwarder"} 1' in forwarder.metrics()


async def test_refused_once_by_mistake_is_delivered(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.replies.append(Reply(400))
    await start()
    await publisher.publish(3)
    await verify()
    assert await dead_letters(connection) == []


async def test_replayed_dead_letter_is_sent_again(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    await start()
    receiver.replies.extend([Reply(422)] * 2)
    (refused,) = await publisher.publish()
    await eventually(lambda: len(receiver.requests) == 2)
    await until_acknowledged(connection)
    (letter,) = await dead_letters(connection)
    subject = letter["subject"].removeprefix("dead.")
    await connection.publish(subject, letter["data"], replay_id(refused, 1))
    await eventually(lambda: receiver.stored[refused] == 1)
    # A second replay is a wish, too, although the event was delivered meanwhile.
    await connection.publish(subject, letter["data"], replay_id(refused, 2))
    await eventually(lambda: receiver.stored[refused] == 2)


async def test_a_receiver_that_refuses_everything_gets_few_dead_letters(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(400)
    forwarder = await start()
    await publisher.publish(300)
    await eventually(lambda: not forwarder.receiver_says[0])
    await asyncio.sleep(1.5)
    assert "refuses every event" in forwarder.receiver_says[1]
    letters = len(await dead_letters(connection))
    assert letters <= 5
    receiver.reply = Reply()
    await eventually(lambda: len(receiver.stored) + letters >= 295, 30)


@pytest.mark.parametrize("status", [401, 403, 404, 407, 302])
async def test_hold_and_go_on(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """A wrong token or address: nothing is lost, nothing is a dead letter, health says why."""
    # Each pause as long as it can be, not as chance draws it: so that probes can be counted.
    monkeypatch.setattr("sematext_agent.shared.retry.random.uniform", lambda low, high: high)
    receiver.reply = Reply(status, headers={"Location": "http://127.0.0.1:1/"})
    forwarder = await start()
    await publisher.publish(50)
    await eventually(lambda: not forwarder.receiver_says[0])
    await asyncio.sleep(0.5)
    # Those in flight at first, and after them one at a time.
    assert len(receiver.requests) <= 20
    ok, words = forwarder.receiver_says
    assert not ok
    assert f"answered {status}" in words
    assert "check " in words
    assert not forwarder.health.report().ready
    assert forwarder.figure("holding") == 1
    receiver.reply = Reply()
    await verify(seconds=30)
    assert await dead_letters(connection) == []
    assert forwarder.receiver_says[0]


async def test_receiver_away_and_back(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    forwarder = await start()
    await publisher.publish(10)
    await verify()
    await receiver.close()
    await publisher.publish(40)
    await eventually(lambda: not forwarder.receiver_says[0])
    assert "no answer" in forwarder.receiver_says[1]
    await receiver.open()
    await verify(seconds=30)


async def test_what_cannot_be_decoded_is_a_dead_letter_and_blocks_nothing(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    poison = {
        "json": b"\x00\xff not json",
        "empty": b"",
        "number": b"7",
        "deep": b"[" * 5000,
        "time": encode_broken(time="yesterday"),
        "body": encode_broken(body={"event": "unheard_of"}),
        "surrogate": encode_broken(origin="\ud800"),
    }
    for name, data in poison.items():
        await connection.publish(f"events.docker.{name}", data, name)
    await publisher.publish(3)
    await verify()
    await until_acknowledged(connection)
    letters = {
        letter["headers"]["Nats-Msg-Id"]: letter for letter in await dead_letters(connection)
    }
    assert set(letters) == set(poison)
    for name, letter in letters.items():
        assert letter["data"] == poison[name]
        assert letter["headers"][DEAD_STATUS_HEADER] == "0"
        is_newer = letter["subject"].endswith(".body")
        words = "upgrade this forwarder" if is_newer else "cannot be decoded"
        assert words in letter["headers"][DEAD_REASON_HEADER]
    assert "00 ff 20 6e 6f 74" in letters["json"]["headers"][DEAD_REASON_HEADER]


def encode_broken(**changes: Any) -> bytes:
    event = {
        "id": "x",
        "time": "2026-01-01T00:00:00.000000000Z",
        "origin": "o",
        "agent": "1",
        "body": {"event": "lifecycle", "state": "started", "run": "r"},
    }
    return json.dumps(event | changes).encode()


async def test_published_without_an_id_and_on_an_odd_subject(
    start: Start, connection: bus.Bus, receiver: Receiver
) -> None:
    """Anybody may publish by hand: an event without `Nats-Msg-Id`, and what is none."""
    await start()
    await connection.send("events.by.hand", encode_broken())
    await eventually(lambda: receiver.stored["x"] == 1)
    await connection.send("events.o\x7fd$d", b"?")
    async with asyncio.timeout(5):
        while not (letters := await dead_letters(connection)):
            await asyncio.sleep(0.02)
    assert letters[0]["subject"] == "dead.events.o_d_d"
    assert letters[0]["headers"]["Nats-Msg-Id"].startswith("EVENTS:")


async def test_a_copy_is_not_sent_again_after_delivery_nor_while_in_flight(
    start: Start, connection: bus.Bus, receiver: Receiver, publisher: Publisher
) -> None:
    """The stream's own duplicate window is not used here: two copies are stored, as after a restart
    of a broker that lost its memory."""
    await start()
    body = encode_broken()
    receiver.replies.append(Reply(seconds=0.3))
    for _ in range(3):
        await connection.send("events.x", body)
    await eventually(lambda: receiver.stored["x"] == 1)
    await until_acknowledged(connection)
    await connection.send("events.x", body)
    async with asyncio.timeout(5):
        while (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["last_seq"] != 4:
            await asyncio.sleep(0.01)
    await until_acknowledged(connection)
    assert len(receiver.requests) == 1


async def test_host_facts_come_with_the_events(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    forwarder = await start()
    await publisher.publish()
    await eventually(lambda: len(receiver.documents) == 1)
    await forwarder.stop()
    assert "os.kernel" not in receiver.documents[0]
    facts = HostFacts(hostname="web-01", kernel="6.1.0")
    await connection.put(HOSTS_BUCKET, bucket_key("web-01"), msgspec.json.encode(facts))
    await start()
    await publisher.publish()
    await eventually(lambda: len(receiver.documents) == 2)
    assert receiver.documents[1]["os.kernel"] == "6.1.0"


async def test_waiting_events_are_not_delivered_again(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Held for longer than the stream waits: without a word it would deliver them again."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 1)
    monkeypatch.setattr(ship_module, "ACK_WAIT_SECONDS", 1)
    receiver.reply = Reply(403)
    await start()
    await publisher.publish(50)
    await asyncio.sleep(3)
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert (info["num_ack_pending"], info["num_redelivered"]) == (50, 0)
    receiver.reply = Reply()
    await verify(seconds=30)


async def test_a_long_backlog_waits_in_the_stream(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    """Memory does not grow with the backlog: no more than 512 events are here."""
    receiver.reply = Reply(403)
    forwarder = await start()
    await publisher.publish(1500)
    await eventually(lambda: forwarder.figure("events_held") > 500)
    await asyncio.sleep(0.5)
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert info["num_ack_pending"] <= 512
    assert info["num_pending"] >= 1500 - 512
    receiver.reply = Reply()
    await verify(seconds=30)


async def test_an_event_that_alone_fails_for_ever_ends_as_a_dead_letter(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Otherwise it would keep the stream from being trimmed until that is full."""
    monkeypatch.setattr(ship_module, "ATTEMPTS_MAX", 2)
    bad = event_id("test", 0)
    receiver.reply = lambda request: Reply(500 if request.document["event.id"] == bad else 200)
    await start()
    await publisher.publish(20)
    async with asyncio.timeout(20):
        while not await dead_letters(connection):
            await asyncio.sleep(0.05)
    (letter,) = await dead_letters(connection)
    assert letter["headers"]["Nats-Msg-Id"] == bad
    assert "while others went through" in letter["headers"][DEAD_REASON_HEADER]


async def test_consumer_deleted_under_it(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(100)
    await verify()
    await connection.request_api("CONSUMER.DELETE.EVENTS.forwarder")
    await publisher.publish(100)
    await verify()


async def test_stream_deleted_under_it(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(100)
    await verify()
    await connection.request_api("STREAM.DELETE.EVENTS")
    await publisher.publish(100)
    await verify()


async def test_two_forwarders_share_the_work(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(seconds=0.01)
    forwarders = [await start(), await start()]
    await publisher.publish(2000)
    await verify()
    for forwarder in forwarders:
        assert 'events_shipped_total{service="forwarder"} 0.0' not in forwarder.metrics()


async def test_concurrency_grows_while_it_helps(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(seconds=0.02)
    forwarder = await start()
    await publisher.publish(2000)
    await verify()
    assert forwarder.figure("posts_in_flight_limit") > 24
    assert receiver.in_flight_most > 24


async def test_stop_ships_what_is_told_at_the_last_moment(
    start: Start, publisher: Publisher, verify: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the whole agent stops at once, and `agent_stopped` comes after the forwarder was
    told to stop."""
    monkeypatch.setattr(ship_module, "QUIET_SECONDS", 1.0)
    forwarder = await start()
    forwarder.stopping.set()
    await asyncio.sleep(0.3)
    await publisher.publish(5)
    await forwarder.stop()
    await verify()


async def test_stop_waits_for_answers_and_gives_the_rest_back(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(seconds=0.8)
    forwarder = await start(drain_seconds=Duration(0.5))
    await publisher.publish(100)
    await eventually(lambda: receiver.in_flight == 16)
    await forwarder.stop()
    assert len(receiver.stored) == 16
    # Given back: they are delivered at once, not when the stream tires of waiting.
    receiver.reply = Reply()
    await start()
    await verify(seconds=5)


async def test_stop_while_holding_does_not_wait(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(403)
    forwarder = await start(drain_seconds=Duration(30))
    await publisher.publish(20)
    await eventually(lambda: not forwarder.receiver_says[0])
    began = time.monotonic()
    await forwarder.stop()
    assert time.monotonic() - began < 3
    receiver.reply = Reply()
    await start()
    await verify()


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
    assert caplog.text.count("running dry") == 1


async def test_sent_documents_are_printed_when_asked_for(
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
    await connection.publish("events.docker.x", encode_broken(body=body), "x")
    await publisher.publish(2)
    await eventually(lambda: len(receiver.stored) == 3)
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
    said = f'{{"error": "Application not found for token {TOKEN}"}}'.encode()
    plain = f"<p>/{TOKEN}/event/{TOKEN.upper()}</p>".encode()
    location = {"Location": f"{receiver.url}/{TOKEN}/event"}
    forwarder = await start(
        request_timeout=Duration(0.2), logging_write_events=True, logging_request_tracking=True
    )

    def reply(request: Request) -> Reply:
        modes = [
            Reply(403, said),
            Reply(400, plain),
            Reply(500, said),
            Reply(302, b"", location),
            Reply(429, plain),
            Reply(how="hang"),
            Reply(how="cut"),
            Reply(how="garbage"),
            Reply(how="reset"),
            Reply(503, said),
            Reply(400, said),
            Reply(),
        ]
        return modes[len(receiver.requests) % len(modes)]

    receiver.reply = reply
    action = f"exec_start: curl {receiver.url}/{TOKEN}/event"
    event = encode_broken(
        body={"event": "docker", "type": "container", "actor_id": "x", "action": action}
    )
    await connection.publish("events.docker.x", event, "with-token")
    await publisher.publish(40)
    await connection.publish("events.docker.x", TOKEN.encode(), "unreadable")
    await asyncio.sleep(4)
    report = repr(forwarder.health.report())
    seen = forwarder.metrics()
    letters = [letter["headers"] for letter in await dead_letters(connection)]
    await forwarder.stop()
    captured = capsys.readouterr()
    assert len(receiver.requests) > 12
    for text in (captured.out, captured.err, caplog.text, report, seen, repr(letters)):
        assert TOKEN not in text.lower()


async def test_what_the_stream_may_have_given_to_another_is_left_to_it(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forwarder that was frozen for longer than the stream waits does not ship what it holds."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 2)
    monkeypatch.setattr(ship_module, "ACK_WAIT_SECONDS", 2)
    forwarder = await start()
    await publisher.publish(1)
    await verify()
    monkeypatch.setattr(ship_module, "LEASE_SECONDS", -1.0)
    await publisher.publish(20)
    await eventually(lambda: 'events_let_go_total{service="forwarder"} 20.0' in forwarder.metrics())
    assert len(receiver.stored) == 1
    monkeypatch.setattr(ship_module, "LEASE_SECONDS", 1.5)
    await verify(seconds=20)


async def test_what_is_held_is_bounded_in_bytes(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(503)
    forwarder = await start()
    large = AgentLifecycle(state="started", run="x" * 200_000)
    for number in range(100):
        event = an_event(number, body=large)
        await connection.publish(subject_of(event), encode(event), event.id)
        publisher.acknowledged.add(event.id)
    await eventually(lambda: forwarder.figure("events_held_bytes") > ship_module.HELD_BYTES_MAX / 2)
    await asyncio.sleep(0.5)
    assert forwarder.figure("events_held_bytes") < 1.5 * ship_module.HELD_BYTES_MAX
    assert forwarder.figure("events_held") < 100
    receiver.reply = Reply()
    await verify(seconds=30)
    await eventually(lambda: forwarder.figure("events_held_bytes") == 0)


async def test_a_stop_without_a_broker_ships_nothing_more(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    nats_server: NatsServer,
    connection: bus.Bus,
) -> None:
    """The broker could not be told, so the next start would ship it once more."""
    receiver.replies.append(Reply(503, headers={"Retry-After": "3"}))
    forwarder = await start(drain_seconds=Duration(6))
    await publisher.publish()
    await eventually(lambda: not forwarder.receiver_says[0])
    await publisher.publish(50)
    await eventually(lambda: forwarder.figure("events_held") == 51)
    nats_server.signal(signal.SIGKILL)
    await eventually(lambda: not connection.is_connected)
    await forwarder.stop()
    assert receiver.stored.total() == 0
