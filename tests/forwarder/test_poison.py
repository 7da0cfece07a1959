"""Poison on a real broker: whatever is published on `events.>`, the next good event arrives.

Every file of the corpus in tests/fuzz is published as it is, under subjects and with headers that
no client would send. Each ends as a document or as a dead letter with a reason, or is counted as a
duplicate; and nothing of it stays in the stream unacknowledged.
"""

from __future__ import annotations

import asyncio
import itertools
import re
from pathlib import Path

import pytest
from broker import NatsServer, frame, raw_publish, wait_until
from forwarding import Publisher, Start, dead_letters
from receiver import Receiver

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import EVENT_BYTES_MAX
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_STATUS_HEADER,
    HOSTS_BUCKET,
    bucket_key,
)

CORPUS = Path(__file__).parents[1] / "fuzz/corpus"
GOOD_SECONDS_MAX = 5
SUBJECTS = [
    b"events.a",
    b"events.\xff\xfe",
    b"events.a\x0bb",
    b"events.\x0c",
    b"events.\x1b[31m.\x00",
    b"events" + b".a" * 2020,
    b"events.$JS.ACK.EVENTS.forwarder.1.1.1.1",
    b"events." + b"x" * 3800,
]
HEADERS = [
    b"",
    b"N",
    b"NATS/1.0 \xff\xff\r\n\r\n",
    b"NATS/1.0 404 No Messages\r\n\r\n",
    b"NATS/1.0\r\nA: \xff\r\n\r\n",
    b"NATS/1.0\r\nStatus: 503\r\n\r\n",
    b"NATS/1.0\r\n\r\n",
    b"NATS/1.0\r\nNats-Msg-Id: %d\xc3\xa9\x1b[31m\r\n\r\n",
    b"NATS/1.0\r\nNats-Msg-Id: %d" + b"i" * 8000 + b"\r\n\r\n",
]


def poisons() -> list[bytes]:
    """Return the files of the corpus, and the largest message that the stream takes."""
    files = sorted(path for path in CORPUS.glob("*/*") if path.is_file())
    return [*(path.read_bytes() for path in files), b"{" * EVENT_BYTES_MAX]


async def until_delivered(connection: Bus) -> None:
    async with asyncio.timeout(10):
        while True:
            info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
            if not info["num_pending"] + info["num_ack_pending"]:
                return
            await asyncio.sleep(0.02)


def deduplicated(metrics: str) -> int:
    """Return how many messages were not sent a second time."""
    match = re.search(r"events_deduplicated_total[^ ]* ([0-9.]+)", metrics, re.MULTILINE)
    assert match is not None
    return int(float(match[1]))


async def good_event_arrives(publisher: Publisher, receiver: Receiver) -> None:
    (good,) = await publisher.publish()
    await wait_until(lambda: good in receiver.stored, GOOD_SECONDS_MAX)


async def test_after_any_poison_the_next_good_event_arrives(
    start: Start, publisher: Publisher, receiver: Receiver, nats_server: NatsServer, connection: Bus
) -> None:
    forwarder = await start()
    # Their numbers have no common divisor: every subject meets every header.
    kinds = zip(itertools.cycle(SUBJECTS), itertools.cycle(HEADERS), strict=False)
    for number, (payload, (subject, header)) in enumerate(zip(poisons(), kinds, strict=False)):
        poison = frame(subject, payload, header.replace(b"%d", b"%d" % number))
        await asyncio.to_thread(raw_publish, nats_server, poison)
        await good_event_arrives(publisher, receiver)
        assert not forwarder.task.done()
    await until_delivered(connection)
    letters = await dead_letters(connection)
    assert all(letter["headers"][DEAD_STATUS_HEADER] == "0" for letter in letters)
    assert all(letter["headers"][DEAD_REASON_HEADER] for letter in letters)
    stored = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]["last_seq"]
    duplicates = deduplicated(forwarder.metrics())
    assert stored >= 2 * len(poisons()) - 3
    assert len(receiver.documents) + duplicates + len(letters) == stored


async def test_the_largest_message_of_the_stream_fits_into_the_dead_letter_stream(
    start: Start, publisher: Publisher, receiver: Receiver, nats_server: NatsServer, connection: Bus
) -> None:
    await start()
    largest = (await connection.request_api("STREAM.INFO.EVENTS"))["config"]["max_msg_size"]
    await asyncio.to_thread(raw_publish, nats_server, frame(b"events.a", b"x" * largest))
    await good_event_arrives(publisher, receiver)
    await until_delivered(connection)
    (letter,) = await dead_letters(connection)
    assert len(letter["data"]) == largest


@pytest.mark.parametrize(
    "facts", [b'{"hostname":"\xff"}', b'{"x":' + b"[" * 5000 + b"]" * 5000 + b"}", b"", b"[]"]
)
async def test_facts_that_cannot_be_read_stop_neither_a_start_nor_an_event(
    start: Start, publisher: Publisher, receiver: Receiver, connection: Bus, facts: bytes
) -> None:
    first = await start()
    await connection.put(HOSTS_BUCKET, bucket_key("web-01"), facts)
    await first.stop()
    second = await start()
    await good_event_arrives(publisher, receiver)
    assert not second.task.done()
