"""New events overtake a backlog, and nothing is lost or told twice by that."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from broker import eventually
from forwarding import Forwarder, Oracle, Publisher, Start
from receiver import Receiver, Reply

from sematext_agent.forwarder import consumers, overtaking, ship, streams
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.streams import Streams
from sematext_agent.shared import bus
from sematext_agent.shared.health import Health
from sematext_agent.shared.stream_reader import Backlog, read_backlog
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, OVERTAKING_CONSUMER

BACKLOG = 4000
INFO = f"CONSUMER.INFO.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """A small backlog counts as one and is looked at often; what was lost comes again soon."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 6)
    monkeypatch.setattr(ship, "ACK_WAIT_SECONDS", 6)
    monkeypatch.setattr(ship, "LEASE_SECONDS", 4)
    monkeypatch.setattr(streams, "LOOK_SECONDS", 0.05)
    monkeypatch.setattr(overtaking, "BEHIND_EVENTS", 1000)
    monkeypatch.setattr(overtaking, "NEAR_EVENTS", 50)
    monkeypatch.setattr(overtaking, "NOTICE_SECONDS", 0.5)


async def second(connection: bus.Bus) -> dict[str, Any] | None:
    """The second consumer, where there is one."""
    try:
        return await connection.request_api(INFO)
    except bus.JetStreamError:
        return None


async def until_overtaking(connection: bus.Bus) -> None:
    """Waits until something has come through the second consumer."""
    async with asyncio.timeout(20):
        while not ((info := await second(connection)) and info["delivered"]["consumer_seq"]):
            await asyncio.sleep(0.02)


async def until_caught_up(connection: bus.Bus) -> None:
    async with asyncio.timeout(60):
        while await second(connection):
            await asyncio.sleep(0.05)


async def after_an_outage(start: Start, publisher: Publisher, receiver: Receiver) -> Forwarder:
    """A forwarder with a backlog, and a receiver that has just come back and takes its time."""
    receiver.reply = Reply(503)
    forwarder = await start()
    await publisher.publish(BACKLOG)
    receiver.reply = Reply(seconds=0.1)
    return forwarder


async def publish_new(publisher: Publisher, connection: bus.Bus, events: int = 20) -> list[str]:
    """Publishes what is behind the backlog, some of it before the second consumer is there."""
    async with asyncio.timeout(20):
        while not await second(connection):
            await asyncio.sleep(0.02)
    return await publisher.publish(events)


async def test_new_events_do_not_wait_for_the_backlog(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    forwarder = await after_an_outage(start, publisher, receiver)
    new = await publish_new(publisher, connection)
    await eventually(lambda: set(new) <= receiver.stored.keys(), 20)
    assert len(receiver.stored) < BACKLOG
    await eventually(lambda: (behind := forwarder.figure("lag_events")) and behind < BACKLOG, 20)
    receiver.reply = Reply()
    await verify(seconds=60)
    await until_caught_up(connection)
    await eventually(lambda: forwarder.figure("lag_events") == 0)
    assert await read_backlog(connection) == Backlog(waiting=0, in_flight=0)
    await publisher.publish(20)
    await verify()


async def test_an_idle_forwarder_has_one_consumer(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(BACKLOG // 10)
    await verify()
    assert await second(connection) is None


async def test_while_the_receiver_is_away_there_is_nothing_to_overtake(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    """What were made now would have a backlog of its own when the receiver comes back."""
    receiver.reply = Reply(503)
    await start()
    await publisher.publish(BACKLOG)
    looks = len(receiver.requests)
    await eventually(lambda: len(receiver.requests) > looks + 3, 20)
    assert await second(connection) is None


async def test_what_was_told_ahead_is_not_told_again_after_a_restart(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    """The next forwarder has no memory of its ids: it knows by the second consumer alone."""
    forwarder = await after_an_outage(start, publisher, receiver)
    new = await publish_new(publisher, connection)
    await eventually(lambda: set(new) <= receiver.stored.keys(), 20)
    await forwarder.stop()
    assert len(receiver.stored) < BACKLOG
    receiver.reply = Reply()
    await start()
    await publisher.publish(20)
    await verify(seconds=60)
    await until_caught_up(connection)
    await publisher.publish(20)
    await verify()


async def test_two_forwarders_overtake_together_and_one_is_killed(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    forwarder = await after_an_outage(start, publisher, receiver)
    await start()
    await publish_new(publisher, connection, 200)
    await until_overtaking(connection)
    await forwarder.kill()
    in_flight = receiver.in_flight_most
    receiver.reply = Reply()
    await publisher.publish(200)
    await verify(duplicates_max=in_flight, seconds=60)
    await until_caught_up(connection)
    await publisher.publish(20)
    await verify(duplicates_max=in_flight)


async def test_a_second_consumer_that_is_deleted_takes_nothing_along(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    await after_an_outage(start, publisher, receiver)
    await publish_new(publisher, connection, 200)
    await until_overtaking(connection)
    await connection.request_api(f"CONSUMER.DELETE.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}")
    receiver.reply = Reply()
    await publisher.publish(20)
    await verify(seconds=60)


class Consumers:
    """Both consumers of a stream of 100 events, taken from by hand; the second begins at 61."""

    def __init__(self, connection: bus.Bus) -> None:
        self.bus = connection
        self.streams = Streams(connection, ForwarderSettings(), Health("forwarder", "test"))
        self.first = self.streams.puller
        self.second = connection.create_puller(EVENTS_STREAM, OVERTAKING_CONSUMER, 100)
        self.first.resize(100)

    async def make(self) -> None:
        await self.streams.make()
        for number in range(100):
            await self.bus.publish("events.test", b"{}", str(number))
        config = consumers.consumer_config(61, OVERTAKING_CONSUMER)
        request = {"stream_name": EVENTS_STREAM, "config": config}
        await self.bus.request_api(
            f"CONSUMER.CREATE.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}", request
        )

    async def acknowledge(self, puller: bus.Puller, up_to: int) -> None:
        """Takes and acknowledges the events up to that number."""
        async with aclosing(aiter(puller)) as messages:
            async for message in messages:
                await self.bus.acknowledge(message)
                if message.sequence == up_to:
                    break

    async def look(self) -> None:
        await self.streams._look()


@pytest.fixture
async def both(connection: bus.Bus) -> Consumers:
    made = Consumers(connection)
    await made.make()
    return made


async def test_the_second_consumer_stays_until_the_first_is_as_far(
    both: Consumers, connection: bus.Bus
) -> None:
    """Removed before that, nobody would know what it has told if the forwarder were killed."""
    await both.acknowledge(both.second, 80)
    await both.acknowledge(both.first, 60)
    for _ in range(3):
        await both.look()
    assert await second(connection) is not None
    both.first.renew_request()
    await both.acknowledge(both.first, 80)
    await both.look()
    assert await second(connection) is None


async def test_what_the_second_has_told_is_known_before_the_first_event_is_taken(
    both: Consumers, connection: bus.Bus
) -> None:
    """And what it has not told yet goes back to the stream: only its end makes it the first's."""
    await both.acknowledge(both.second, 80)
    keeping = asyncio.create_task(both.streams.keep())
    await both.streams.made.wait()
    taken, passed_over = 0, set()
    async with asyncio.timeout(20), aclosing(aiter(both.first)) as messages:
        async for message in messages:
            if message.delivery_count > 1 and message.sequence == 100:
                break  # the last that was given back
            taken += 1
            if await both.streams.overtaking.passes_over(message):
                passed_over.add(message.sequence)
    keeping.cancel()
    assert taken >= 100
    assert passed_over == set(range(61, 101))
    info = await connection.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert info["num_ack_pending"] == 100 - 20  # as the first 60, which nobody has shipped
