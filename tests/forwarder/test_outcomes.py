"""Each outcome of a delivery against a real broker and a receiver that answers so."""

from __future__ import annotations

import asyncio
import email.utils
import json
import time

import pytest
from broker import wait_for_streams, wait_until
from forwarding import (
    Oracle,
    Publisher,
    Start,
    an_encoded_event,
    dead_letters,
    until_acknowledged,
)
from receiver import Receiver, Reply

from sematext_agent.forwarder import settlement
from sematext_agent.forwarder.dead_letters import fallback_id
from sematext_agent.shared import bus
from sematext_agent.shared.events import event_id
from sematext_agent.shared.settings import Duration
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    replay_id,
)


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
async def test_a_failed_post_is_retried(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    reply: Reply,
    connection: bus.Bus,
) -> None:
    """Nothing is lost; only a receiver that stored an event without an answer gets it twice."""
    receiver.replies.extend([reply] * 4)
    await start(request_timeout=Duration(0.3))
    await publisher.publish(30)
    lost_answers = 4 if reply.how != "answer" else 0
    await verify(duplicates_max=2 * lost_answers)
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
    await wait_until(lambda: len(receiver.requests) == 2)
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
    await wait_until(lambda: len(receiver.requests) == 2)
    (good,) = await publisher.publish()
    await wait_until(lambda: set(receiver.stored) == {good})
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
    assert 'dead_lettered_total{reason="400",service="forwarder"} 1' in forwarder.metrics()


async def test_an_event_refused_once_by_mistake_is_delivered(
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
    await wait_until(lambda: len(receiver.requests) == 2)
    await until_acknowledged(connection)
    (letter,) = await dead_letters(connection)
    subject = letter["subject"].removeprefix("dead.")
    await connection.publish(subject, letter["data"], replay_id(refused, 1))
    await wait_until(lambda: receiver.stored[refused] == 1)
    # A second replay is a wish, too, although the event was delivered meanwhile.
    await connection.publish(subject, letter["data"], replay_id(refused, 2))
    await wait_until(lambda: receiver.stored[refused] == 2)


async def test_a_receiver_that_refuses_everything_gets_few_dead_letters(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(400)
    forwarder = await start()
    await publisher.publish(300)
    await wait_until(lambda: not forwarder.receiver_condition[0])
    await asyncio.sleep(1.5)
    assert "refuses every event" in forwarder.receiver_condition[1]
    letters = len(await dead_letters(connection))
    assert letters <= 5
    receiver.reply = Reply()
    await wait_until(lambda: len(receiver.stored) + letters >= 295, 30)


@pytest.mark.parametrize("status", [401, 403, 404, 407, 302])
async def test_a_wrong_token_or_address_holds_everything_until_it_is_corrected(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    """Nothing is lost, nothing becomes a dead letter, and health shows why."""
    # Each pause as long as it can be, not as chance draws it: so that probes can be counted.
    monkeypatch.setattr("sematext_agent.shared.retry.random.uniform", lambda low, high: high)
    receiver.reply = Reply(status, headers={"Location": "http://127.0.0.1:1/"})
    forwarder = await start()
    await publisher.publish(50)
    await wait_until(lambda: not forwarder.receiver_condition[0])
    await asyncio.sleep(0.5)
    # Those in flight at first, and after them one at a time.
    assert len(receiver.requests) <= 20
    ok, words = forwarder.receiver_condition
    assert not ok
    assert f"answered {status}" in words
    assert "check " in words
    assert not forwarder.health.report().ready
    assert forwarder.figure("circuit_open") == 1
    receiver.reply = Reply()
    await verify(seconds=30)
    assert await dead_letters(connection) == []
    assert forwarder.receiver_condition[0]


async def test_receiver_away_and_back(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    forwarder = await start()
    await publisher.publish(10)
    await verify()
    await receiver.close()
    await publisher.publish(40)
    await wait_until(lambda: not forwarder.receiver_condition[0])
    assert "no answer" in forwarder.receiver_condition[1]
    await receiver.open()
    await verify(seconds=30)


async def test_an_undecodable_message_becomes_a_dead_letter_and_blocks_nothing(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    poison = {
        "json": b"\x00\xff not json",
        "empty": b"",
        "number": b"7",
        "deep": b"[" * 5000,
        "time": an_encoded_event(time="yesterday"),
        "body": an_encoded_event(body={"event": "unheard_of"}),
        "surrogate": an_encoded_event(origin="\ud800"),
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


async def test_a_message_without_an_id_or_on_an_odd_subject_is_delivered_or_dead_lettered(
    start: Start, connection: bus.Bus, receiver: Receiver
) -> None:
    """Anybody may publish by hand, also what is no event."""
    await start()
    await connection.send("events.by.hand", an_encoded_event())
    await wait_until(lambda: receiver.stored["x"] == 1)
    await connection.send("events.o\x7fd$d", b"?")
    async with asyncio.timeout(5):
        while not (letters := await dead_letters(connection)):
            await asyncio.sleep(0.02)
    assert letters[0]["subject"] == "dead.events.o_d_d"
    assert letters[0]["headers"]["Nats-Msg-Id"].startswith("EVENTS:")


async def test_dead_letters_without_an_id_are_kept_when_the_stream_was_made_anew(
    start: Start, connection: bus.Bus
) -> None:
    """Both had the first sequence of their stream."""
    await start()
    await connection.send("events.a", b"first")
    await until_dead(connection, 1)
    await connection.request_api("STREAM.DELETE.EVENTS")
    await wait_for_streams(connection)
    await connection.send("events.a", b"second")
    await until_dead(connection, 2)
    assert {letter["data"] for letter in await dead_letters(connection)} == {b"first", b"second"}


async def until_dead(connection: bus.Bus, letters: int) -> None:
    async with asyncio.timeout(10):
        while len(await dead_letters(connection)) < letters:
            await asyncio.sleep(0.05)


def test_dead_letters_of_two_domains_have_different_ids() -> None:
    message = bus.Message("events.a", b"", {}, 1, 1, 0, 7, "")
    assert {fallback_id(message, domain) for domain in ("", "a", "b")} == {
        "EVENTS:1:7",
        "EVENTS-a:1:7",
        "EVENTS-b:1:7",
    }


async def test_an_event_that_alone_fails_for_ever_ends_as_a_dead_letter(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Left for longer, it would keep the stream from being trimmed until that is full."""
    monkeypatch.setattr(settlement, "ATTEMPTS_MAX", 2)
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
