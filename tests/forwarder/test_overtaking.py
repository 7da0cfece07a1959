"""New events overtake a backlog, and nothing is lost or delivered twice by that."""

from __future__ import annotations

import asyncio
from contextlib import aclosing
from typing import Any

import pytest
from broker import wait_until
from forwarding import Forwarder, Oracle, Publisher, Start
from receiver import Receiver, Reply

from sematext_agent.forwarder import consumers, lease, overtaking, peers, streams
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.streams import StreamKeeper
from sematext_agent.shared import bus
from sematext_agent.shared.health import Health
from sematext_agent.shared.settings import Duration
from sematext_agent.shared.stream_reader import Backlog, read_backlog
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, OVERTAKING_CONSUMER

BACKLOG = 4000
INFO = f"CONSUMER.INFO.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make a small backlog count, inspect it often, and redeliver soon."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 4)
    monkeypatch.setattr(lease, "LEASE_SECONDS", 2.7)
    monkeypatch.setattr(streams, "INSPECT_SECONDS", 0.05)
    monkeypatch.setattr(overtaking, "BEHIND_EVENTS", 1000)
    monkeypatch.setattr(overtaking, "NEAR_EVENTS", 50)
    monkeypatch.setattr(overtaking, "NOTICE_SECONDS", 0.5)


async def overtaking_info(connection: bus.Bus) -> dict[str, Any] | None:
    """Return the information about the overtaking consumer, where there is one."""
    try:
        return await connection.request_api(INFO)
    except bus.JetStreamError:
        return None


async def until_overtaking(connection: bus.Bus) -> None:
    """Wait until something has come through the second consumer."""
    async with asyncio.timeout(20):
        while not (
            (info := await overtaking_info(connection)) and info["delivered"]["consumer_seq"]
        ):
            await asyncio.sleep(0.02)


async def until_caught_up(connection: bus.Bus) -> None:
    async with asyncio.timeout(60):
        while await overtaking_info(connection):
            await asyncio.sleep(0.05)


async def after_an_outage(
    start: Start, publisher: Publisher, receiver: Receiver, **settings: Any
) -> Forwarder:
    """Return a forwarder with a backlog; its receiver has just come back and is slow."""
    receiver.reply = Reply(503)
    forwarder = await start(**settings)
    await publisher.publish(BACKLOG)
    receiver.reply = Reply(seconds=0.1)
    return forwarder


async def publish_new(publisher: Publisher, connection: bus.Bus, events: int = 20) -> list[str]:
    """Publish new events behind the backlog, once the overtaking consumer exists."""
    async with asyncio.timeout(20):
        while not await overtaking_info(connection):
            await asyncio.sleep(0.02)
    return await publisher.publish(events)


async def test_new_events_do_not_wait_for_the_backlog(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    forwarder = await after_an_outage(start, publisher, receiver)
    new = await publish_new(publisher, connection)
    await wait_until(lambda: set(new) <= receiver.stored.keys(), 20)
    assert len(receiver.stored) < BACKLOG
    await wait_until(lambda: 0 < forwarder.figure("lag_events") < BACKLOG, 20)
    receiver.reply = Reply()
    await verify(seconds=60)
    await until_caught_up(connection)
    await wait_until(lambda: forwarder.figure("lag_events") == 0)
    assert await read_backlog(connection) == Backlog(waiting=0, in_flight=0)
    await publisher.publish(20)
    await verify()


async def test_an_idle_forwarder_has_one_consumer(
    start: Start, publisher: Publisher, verify: Oracle, connection: bus.Bus
) -> None:
    await start()
    await publisher.publish(BACKLOG // 10)
    await verify()
    assert await overtaking_info(connection) is None


async def test_while_the_receiver_is_away_there_is_nothing_to_overtake(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    """A consumer created now would have a backlog of its own when the receiver comes back."""
    receiver.reply = Reply(503)
    await start()
    await publisher.publish(BACKLOG)
    before = len(receiver.requests)
    await wait_until(lambda: len(receiver.requests) > before + 3, 20)
    assert await overtaking_info(connection) is None


async def test_an_event_that_overtook_is_not_delivered_again_after_a_restart(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    """The next forwarder has no memory of its ids: it has the overtaking consumer alone."""
    forwarder = await after_an_outage(start, publisher, receiver, drain_seconds=Duration(0.5))
    new = await publish_new(publisher, connection)
    await wait_until(lambda: set(new) <= receiver.stored.keys(), 20)
    await forwarder.stop()
    assert len(receiver.stored) < BACKLOG
    receiver.reply = Reply()
    await start()
    await publisher.publish(20)
    await verify(seconds=60)
    await until_caught_up(connection)
    await publisher.publish(20)
    await verify()


@pytest.mark.parametrize("peer_answer_seconds", [peers.ANSWER_SECONDS_MAX])
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


async def test_an_overtaking_consumer_that_is_deleted_takes_nothing_along(
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
    """The two consumers of a stream of 100 events, of which the overtaking one begins at 61."""

    def __init__(self, connection: bus.Bus) -> None:
        self.bus = connection
        self.streams = StreamKeeper(connection, ForwarderSettings(), Health("forwarder", "test"))
        self.first = self.streams.puller
        self.overtaking = connection.create_puller(EVENTS_STREAM, OVERTAKING_CONSUMER, 100)
        self.first.resize(100)

    async def create(self) -> None:
        await self.streams.provisioner.provision()
        for number in range(100):
            await self.bus.publish("events.test", b"{}", str(number))
        config = consumers.consumer_config(61, OVERTAKING_CONSUMER)
        request = {"stream_name": EVENTS_STREAM, "config": config}
        await self.bus.request_api(
            f"CONSUMER.CREATE.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}", request
        )

    async def acknowledge(self, puller: bus.Puller, up_to: int) -> None:
        """Take and acknowledge the events up to that number."""
        async with aclosing(aiter(puller)) as messages:  # type: ignore[type-var]
            async for message in messages:
                await self.bus.acknowledge(message)
                if message.sequence == up_to:
                    break

    async def inspect(self) -> None:
        await self.streams.inspect()


@pytest.fixture
async def pair(connection: bus.Bus) -> Consumers:
    pair = Consumers(connection)
    await pair.create()
    return pair


async def test_the_overtaking_consumer_stays_until_the_first_is_as_far(
    pair: Consumers, connection: bus.Bus
) -> None:
    """Deleted before that, a killed forwarder would leave no trace of what it has delivered."""
    await pair.acknowledge(pair.overtaking, 80)
    await pair.acknowledge(pair.first, 60)
    for _ in range(3):
        await pair.inspect()
    assert await overtaking_info(connection) is not None
    pair.first.renew_request()
    await pair.acknowledge(pair.first, 80)
    await pair.inspect()
    assert await overtaking_info(connection) is None


async def test_the_overtaking_consumer_is_discovered_before_the_first_event_is_taken(
    pair: Consumers, connection: bus.Bus
) -> None:
    """Events that it has not delivered yet go back to the stream until it is deleted."""
    await pair.acknowledge(pair.overtaking, 80)
    keeping = asyncio.create_task(pair.streams.keep())
    await pair.streams.ready.wait()
    received, skipped = 0, set()
    async with asyncio.timeout(20):
        async with aclosing(aiter(pair.first)) as messages:  # type: ignore[type-var]
            async for message in messages:
                if message.delivery_count > 1 and message.sequence == 100:
                    break  # the last that was given back
                received += 1
                if await pair.streams.overtaking.skip(message):
                    skipped.add(message.sequence)
    keeping.cancel()
    assert received >= 100
    assert skipped == set(range(61, 101))
    info = await connection.request_api(f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    assert info["num_ack_pending"] == 100 - 20  # with the first 60, which nobody has delivered
