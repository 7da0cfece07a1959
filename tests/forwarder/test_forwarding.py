"""One forwarder, a real broker and a receiver: every event arrives, once.

`verify` is the oracle: every id that JetStream acknowledged is stored at the receiver, none else,
and no more often than the fault allows.
"""

from __future__ import annotations

import asyncio

import msgspec
import pytest
from broker import wait_until
from forwarding import (
    Oracle,
    Publisher,
    Start,
    an_encoded_event,
    an_event,
    until_acknowledged,
)
from receiver import Receiver, Reply

from sematext_agent.forwarder import consumers, in_flight, lease
from sematext_agent.shared import bus
from sematext_agent.shared.events import AgentLifecycle, HostFacts, encode
from sematext_agent.shared.subjects import (
    HOSTS_BUCKET,
    bucket_key,
    subject_of,
)


async def test_everything_arrives_once(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    forwarder = await start()
    await publisher.publish(1000)
    await verify()
    await until_acknowledged(connection)
    assert forwarder.receiver_condition[0]
    assert forwarder.figure("events_in_flight") == 0


async def test_a_duplicate_is_not_sent_while_the_event_is_in_flight_nor_after_its_delivery(
    start: Start, connection: bus.Bus, receiver: Receiver, publisher: Publisher
) -> None:
    """The stream stores the duplicates, as after a restart of a broker that lost its window."""
    await start()
    body = an_encoded_event()
    receiver.replies.append(Reply(seconds=0.3))
    for _ in range(3):
        await connection.send("events.x", body)
    await wait_until(lambda: receiver.stored["x"] == 1)
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
    await wait_until(lambda: len(receiver.documents) == 1)
    await forwarder.stop()
    assert "os.kernel" not in receiver.documents[0]
    facts = HostFacts(hostname="web-01", kernel="6.1.0")
    await connection.put(HOSTS_BUCKET, bucket_key("web-01"), msgspec.json.encode(facts))
    await start()
    await publisher.publish()
    await wait_until(lambda: len(receiver.documents) == 2)
    assert receiver.documents[1]["os.kernel"] == "6.1.0"


async def test_waiting_events_are_not_redelivered(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    connection: bus.Bus,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Events in flight for longer than the ack deadline, which has to be extended."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 1)
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
    """Memory does not grow with the backlog: at most 512 events are in flight."""
    receiver.reply = Reply(403)
    forwarder = await start()
    await publisher.publish(1500)
    await wait_until(lambda: forwarder.figure("events_in_flight") > 500)
    await asyncio.sleep(0.5)
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert info["num_ack_pending"] <= 512
    assert info["num_pending"] >= 1500 - 512
    receiver.reply = Reply()
    await verify(seconds=30)


async def test_a_consumer_deleted_meanwhile_is_made_again(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(100)
    await verify()
    await connection.request_api("CONSUMER.DELETE.EVENTS.forwarder")
    await publisher.publish(100)
    await verify()


async def test_a_stream_deleted_meanwhile_is_made_again(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(100)
    await verify()
    await connection.request_api("STREAM.DELETE.EVENTS")
    await publisher.publish(100)
    await verify()


async def test_concurrency_grows_while_it_helps(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(seconds=0.02)
    forwarder = await start()
    await publisher.publish(2000)
    await verify()
    assert forwarder.figure("posts_in_flight_limit") > 24
    assert receiver.in_flight_most > 24


async def test_events_whose_lease_expired_are_left_to_the_stream(
    start: Start,
    publisher: Publisher,
    verify: Oracle,
    receiver: Receiver,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forwarder that was frozen for longer than the ack deadline does not send what it has."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 2)
    forwarder = await start()
    await publisher.publish(1)
    await verify()
    monkeypatch.setattr(lease, "LEASE_SECONDS", -1.0)
    await publisher.publish(20)
    await wait_until(
        lambda: 'events_released_total{service="forwarder"} 20.0' in forwarder.metrics()
    )
    assert len(receiver.stored) == 1
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.5)
    await verify(seconds=20)


async def test_events_in_flight_are_bounded_in_bytes(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(503)
    forwarder = await start()
    large = AgentLifecycle(state="started", run="x" * 200_000)
    for number in range(100):
        event = an_event(number, body=large)
        await connection.publish(subject_of(event), encode(event), event.id)
        publisher.acknowledged.add(event.id)
    await wait_until(lambda: forwarder.figure("events_in_flight_bytes") > in_flight.BYTES_MAX / 2)
    await asyncio.sleep(0.5)
    assert forwarder.figure("events_in_flight_bytes") < 1.5 * in_flight.BYTES_MAX
    assert forwarder.figure("events_in_flight") < 100
    receiver.reply = Reply()
    await verify(seconds=30)
    await wait_until(lambda: forwarder.figure("events_in_flight_bytes") == 0)
