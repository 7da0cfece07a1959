"""The bus against a real nats-server: every hole of the client that `shared.bus` closes."""

from __future__ import annotations

import asyncio
import signal

import pytest
from broker import NatsServer, eventually, frame, raw_publish

from sematext_agent.shared import bus
from sematext_agent.shared.bus import (
    Bus,
    BusError,
    ConsumerConfig,
    JetStreamError,
    Message,
    PublishTimeout,
    StreamConfig,
    publisher,
)
from sematext_agent.shared.settings import Secret, ServiceSettings


@pytest.fixture
async def stream(connection: Bus) -> Bus:
    """A connection whose server has a stream EVENTS and a consumer `forwarder`."""
    await connection.manager.add_stream(
        StreamConfig(name="EVENTS", subjects=["events.>"], max_bytes=100_000, discard="new")
    )
    await connection.manager.add_consumer("EVENTS", ConsumerConfig(durable_name="forwarder"))
    return connection


async def take(connection: Bus, count: int) -> list[Message]:
    """The next `count` messages, each acknowledged."""
    taken = []
    async with asyncio.timeout(5):
        async for message in connection.create_puller("EVENTS", "forwarder", window=16):
            await connection.acknowledge(message)
            taken.append(message)
            if len(taken) == count:
                break
    return taken


POISONS = {
    "subject that is not UTF-8": frame(b"events.\xff\xfe", b"poison"),
    "subject with a vertical tab": frame(b"events.a\x0bb", b"poison"),
    "subject with a form feed": frame(b"events.a\x0cb", b"poison", b"NATS/1.0\r\nA: b\r\n\r\n"),
    "header of one byte": frame(b"events.a", b"poison", b"N"),
    "header that is not UTF-8": frame(b"events.a", b"poison", b"NATS/1.0\r\nA: \xff\r\n\r\n"),
    "inline status that is not ASCII": frame(b"events.a", b"poison", b"NATS/1.0 \xff\xff\r\n\r\n"),
    "header named Status": frame(b"events.a", b"poison", b"NATS/1.0\r\nStatus: 404\r\n\r\n"),
}


@pytest.mark.parametrize("poison", POISONS.values(), ids=POISONS.keys())
async def test_a_poisoned_message_and_the_good_one_behind_it_are_both_delivered(
    stream: Bus, nats_server: NatsServer, poison: bytes
) -> None:
    raw_publish(nats_server, poison, frame(b"events.good", b"good"))
    assert [message.data for message in await take(stream, 2)] == [b"poison", b"good"]


async def test_a_poison_on_the_acknowledgement_inbox_does_not_stop_publishing(
    stream: Bus, nats_server: NatsServer
) -> None:
    inbox = stream._publisher._inbox.encode()
    raw_publish(nats_server, frame(inbox + b".\xff", b"{"), frame(inbox + b".999", b"not json"))
    assert (await stream.publish("events.a", b"x", "1")).seq == 1


async def test_an_error_acknowledgement_is_raised_and_the_next_publish_works(stream: Bus) -> None:
    publishes = [stream.publish("events.a", b"x" * 10_000, str(number)) for number in range(12)]
    with pytest.raises(JetStreamError, match="maximum bytes exceeded"):
        await asyncio.gather(*publishes)
    await stream.manager.purge_stream("EVENTS")
    assert not (await stream.publish("events.a", b"x", "after")).duplicate


async def test_a_subject_that_no_stream_takes_is_refused_at_once(stream: Bus) -> None:
    with pytest.raises(JetStreamError, match="no stream takes this subject"):
        await stream.publish("elsewhere.a", b"x", "1")


async def test_an_id_is_stored_once(stream: Bus) -> None:
    first = await stream.publish("events.a", b"x", "same")
    second = await stream.publish("events.a", b"x", "same")
    assert (first.duplicate, second.duplicate) == (False, True)


def publish_100(connection: Bus) -> asyncio.Future[list[object]]:
    publishes = (connection.publish("events.a", b"x", str(number)) for number in range(100))
    return asyncio.ensure_future(asyncio.gather(*publishes, return_exceptions=True))


async def test_100_publishes_that_a_stopped_server_does_not_answer_end_at_their_deadline(
    stream: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ACKNOWLEDGEMENT_SECONDS_MAX", 0.3)
    nats_server.signal(signal.SIGSTOP)
    async with asyncio.timeout(5):
        outcomes = await publish_100(stream)
    nats_server.signal(signal.SIGCONT)
    assert {type(outcome) for outcome in outcomes} == {PublishTimeout}


async def test_100_publishes_over_a_killed_server_end_at_once_and_succeed_when_repeated(
    stream: Bus, nats_server: NatsServer
) -> None:
    # A stopped server takes the publishes into its socket and answers none of them.
    nats_server.signal(signal.SIGSTOP)
    publishes = publish_100(stream)
    await asyncio.sleep(0)
    nats_server.signal(signal.SIGKILL)
    async with asyncio.timeout(bus.ACKNOWLEDGEMENT_SECONDS_MAX / 2):
        outcomes = await publishes
    assert {type(outcome) for outcome in outcomes} == {PublishTimeout}
    nats_server.start()
    async with asyncio.timeout(15):
        await asyncio.gather(*(stream.publish("events.a", b"x", str(n)) for n in range(100)))
    assert (await stream.manager.stream_info("EVENTS")).state.messages == 100


async def test_a_publish_waits_while_the_broker_is_away_and_nothing_is_sent_twice(
    stream: Bus, nats_server: NatsServer
) -> None:
    nats_server.signal(signal.SIGKILL)
    await eventually(lambda: not stream.is_connected)
    publish = asyncio.create_task(stream.publish("events.a", b"x", "1"))
    nats_server.start()
    async with asyncio.timeout(10):
        assert not (await publish).duplicate


async def test_it_reconnects_after_more_failures_than_the_clients_default_allows(
    stream: Bus, nats_server: NatsServer
) -> None:
    client = stream._client
    assert client.options["max_reconnect_attempts"] == -1
    nats_server.signal(signal.SIGKILL)
    await eventually(lambda: not stream.is_connected)
    # Sixty failures are the client's default limit; they are counted, not waited for.
    for server in client._server_pool:
        server.reconnects = 1000
    nats_server.start()
    await eventually(lambda: stream.is_connected)


async def test_a_puller_goes_on_after_a_restart_of_the_server(
    stream: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the renewal at the reconnect may help, not the one after silence.
    monkeypatch.setattr("sematext_agent.shared.bus.puller.HEARTBEAT_SECONDS", 14)
    received: list[bytes] = []

    async def pull() -> None:
        async for message in stream.create_puller("EVENTS", "forwarder", window=16):
            received.append(message.data)
            await stream.acknowledge(message)

    pulling = asyncio.create_task(pull())
    await stream.publish("events.a", b"before", "1")
    await eventually(lambda: received == [b"before"])
    nats_server.signal(signal.SIGKILL)
    await eventually(lambda: not stream.is_connected)
    nats_server.start()
    await stream.publish("events.a", b"after", "2")
    await eventually(lambda: b"after" in received)
    pulling.cancel()


async def test_a_puller_whose_request_was_lost_asks_again_after_silence(
    stream: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.shared.bus.puller.HEARTBEAT_SECONDS", 0.1)
    puller = stream.create_puller("EVENTS", "forwarder", window=1)
    await stream.publish("events.a", b"one", "1")
    received = []
    async with asyncio.timeout(5):
        async for message in puller:
            received.append(message.data)
            await stream.acknowledge(message)
            if len(received) == 2:
                break
            puller._outstanding = 1  # as if the next request had been sent and lost
            await stream.publish("events.a", b"two", "2")
    assert received == [b"one", b"two"]


async def test_a_puller_says_that_its_consumer_is_gone_and_goes_on_when_it_is_back(
    stream: Bus,
) -> None:
    puller = stream.create_puller("EVENTS", "forwarder", window=16)
    received: list[bytes] = []

    async def pull() -> None:
        async for message in puller:
            received.append(message.data)
            await stream.acknowledge(message)

    pulling = asyncio.create_task(pull())
    await stream.publish("events.a", b"one", "1")
    await eventually(lambda: received == [b"one"])
    await stream.manager.delete_consumer("EVENTS", "forwarder")
    async with asyncio.timeout(5):
        await puller.consumer_missing.wait()
    await stream.publish("events.a", b"two", "2")
    await stream.manager.add_consumer("EVENTS", ConsumerConfig(durable_name="forwarder"))
    await eventually(lambda: b"two" in received)
    assert not puller.consumer_missing.is_set()
    pulling.cancel()


async def test_a_stopped_puller_hands_out_what_is_here_and_ends(stream: Bus) -> None:
    for number in range(3):
        await stream.publish("events.a", b"%d" % number, str(number))
    puller = stream.create_puller("EVENTS", "forwarder", window=16)
    taken = []
    async with asyncio.timeout(5):
        async for message in puller:
            taken.append(message.data)
            if len(taken) == 1:
                await eventually(lambda: len(puller._buffer) == 2)
                puller.stop()
    assert taken == [b"0", b"1", b"2"]


async def test_a_message_given_back_is_delivered_again_and_counted(stream: Bus) -> None:
    await stream.publish("events.a", b"x", "the id")
    deliveries = []
    async with asyncio.timeout(5):
        async for message in stream.create_puller("EVENTS", "forwarder", window=4):
            deliveries.append(message.delivery_count)
            if len(deliveries) == 2:
                assert message.id == "the id"
                break
            await stream.negative_acknowledge(message)
    assert deliveries == [1, 2]


async def test_a_deaf_client_is_a_fault(connection: Bus) -> None:
    watching = asyncio.create_task(connection.watch_connection())
    connection._client._reading_task.cancel()
    with pytest.raises(bus.ConnectionLost, match="reader"):
        async with asyncio.timeout(5):
            await watching


async def test_a_closed_client_is_a_fault(connection: Bus) -> None:
    watching = asyncio.create_task(connection.watch_connection())
    await connection._client.close()
    with pytest.raises(bus.ConnectionLost, match="closed"):
        async with asyncio.timeout(5):
            await watching


async def test_values_are_kept_and_missing_ones_are_none(connection: Bus) -> None:
    await connection.manager.create_key_value(bucket="cursors")
    assert await connection.get("cursors", "a.b") is None
    await connection.put("cursors", "a.b", b"1")
    assert await connection.get("cursors", "a.b") == b"1"
    assert await connection.keys("cursors") == ["a.b"]


async def test_a_bucket_that_cannot_be_read_is_an_error(
    connection: Bus, nats_server: NatsServer
) -> None:
    with pytest.raises(bus.BusError, match="cannot read nowhere/a"):
        await connection.get("nowhere", "a")


async def test_connecting_waits_for_a_broker_that_starts_later(nats_server: NatsServer) -> None:
    nats_server.signal(signal.SIGKILL)
    settings = ServiceSettings(nats_url=(nats_server.url,))
    connecting = asyncio.create_task(bus.connect(settings, "early"))
    await asyncio.sleep(0.2)
    assert not connecting.done()
    nats_server.start()
    async with asyncio.timeout(10):
        await (await connecting).close()


async def test_a_right_to_listen_that_is_taken_and_given_back(nats_server: NatsServer) -> None:
    """The broker drops the subscription for answers, and does not make it anew by itself."""

    def permit(permissions: str) -> None:
        users = f"users: [ {{ user: u, password: p {permissions} }}, {{ user: v, password: p }} ]"
        nats_server.configure(f"authorization {{ {users} }}")

    permit("")
    nats_server.signal(signal.SIGTERM)
    nats_server.start()
    settings = ServiceSettings(
        nats_url=(nats_server.url,), nats_user="u", nats_password=Secret("p")
    )
    connection = await bus.connect(settings, "test")
    watching = asyncio.create_task(connection.watch_connection())
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.publish("events.a", b"", "1")
    permit(', permissions: { subscribe: { deny: ">" } }')
    nats_server.signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        while True:  # until the server has read it
            try:
                await connection.publish("events.a", b"", "2")
            except BusError:
                break
    permit("")
    nats_server.signal(signal.SIGHUP)
    async with asyncio.timeout(20):
        while True:
            try:
                await connection.publish("events.a", b"", "3")
                break
            except BusError:
                continue
    watching.cancel()
    await connection.close()


async def test_no_more_bytes_come_than_were_asked_for(stream: Bus) -> None:
    for number in range(8):
        await stream.publish("events.a", b"x" * 9_000, str(number))
    puller = stream.create_puller("EVENTS", "forwarder", window=16)
    puller.resize(16, bytes_max=30_000)
    taken = []
    async with asyncio.timeout(5):
        async for message in puller:
            taken.append(message.sequence)
            if len(taken) == 3:
                puller.resize(0, 0)  # no room until these are done with
                break
    info = await stream.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert (len(taken), info["num_ack_pending"], info["num_pending"]) == (3, 3, 5)
