"""The puller against a real nats-server: every way to lose messages or requests is closed."""

from __future__ import annotations

import asyncio
import signal

import pytest
from broker import NatsServer, frame, raw_publish, wait_until

from sematext_agent.shared.bus import Bus, ConsumerConfig, Message
from sematext_agent.shared.bus import puller as puller_module


async def take(connection: Bus, count: int) -> list[Message]:
    """Return the next `count` messages, each acknowledged."""
    messages: list[Message] = []
    async with asyncio.timeout(5):
        async for message in connection.create_puller("EVENTS", "forwarder", window=16):
            await connection.acknowledge(message)
            messages.append(message)
            if len(messages) == count:
                break
    return messages


UNDECODABLE = {
    "subject that is not UTF-8": frame(b"events.\xff\xfe", b"poison"),
    "subject with a vertical tab": frame(b"events.a\x0bb", b"poison"),
    "subject with a form feed": frame(b"events.a\x0cb", b"poison", b"NATS/1.0\r\nA: b\r\n\r\n"),
    "header of one byte": frame(b"events.a", b"poison", b"N"),
    "header that is not UTF-8": frame(b"events.a", b"poison", b"NATS/1.0\r\nA: \xff\r\n\r\n"),
    "inline status that is not ASCII": frame(b"events.a", b"poison", b"NATS/1.0 \xff\xff\r\n\r\n"),
    "header named Status": frame(b"events.a", b"poison", b"NATS/1.0\r\nStatus: 404\r\n\r\n"),
}


@pytest.mark.parametrize("undecodable", UNDECODABLE.values(), ids=UNDECODABLE.keys())
async def test_an_undecodable_message_and_the_next_one_are_both_delivered(
    stream: Bus, nats_server: NatsServer, undecodable: bytes
) -> None:
    raw_publish(nats_server, undecodable, frame(b"events.good", b"good"))
    assert [message.data for message in await take(stream, 2)] == [b"poison", b"good"]


async def test_a_puller_continues_after_a_restart_of_the_server(
    stream: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Only the renewal at the reconnect may help, not the one after silence.
    monkeypatch.setattr(puller_module, "HEARTBEAT_SECONDS", 14)
    received: list[bytes] = []

    async def pull() -> None:
        async for message in stream.create_puller("EVENTS", "forwarder", window=16):
            received.append(message.data)
            await stream.acknowledge(message)

    pulling = asyncio.create_task(pull())
    await stream.publish("events.a", b"before", "1")
    await wait_until(lambda: received == [b"before"])
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not stream.is_connected)
    nats_server.start()
    await stream.publish("events.a", b"after", "2")
    await wait_until(lambda: b"after" in received)
    pulling.cancel()


async def test_a_puller_repeats_a_lost_request_after_missing_heartbeats(
    stream: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(puller_module, "HEARTBEAT_SECONDS", 0.1)
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


async def test_completed_requests_are_no_refusals_and_bring_no_redelivery(
    stream: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """nats-server 2.15 ends every request that has a limit of bytes with a status 409."""
    monkeypatch.setattr(puller_module, "REDELIVERY_SECONDS", 0)
    puller = stream.create_puller("EVENTS", "forwarder", window=4)
    puller.resize(4, bytes_max=30_000)
    expected: list[bool] = []
    statuses: list[str] = []
    on_control = puller._on_control

    def note(headers: dict[str, str]) -> None:
        statuses.append(headers.get("Description", ""))
        on_control(headers)

    monkeypatch.setattr(puller, "_on_control", note)
    for number in range(20):
        await stream.publish("events.a", b"x", str(number))
    async with asyncio.timeout(5):
        async for message in puller:
            await stream.acknowledge(message)
            expected.append(puller.expects_redelivery())
            assert not puller._is_refused
            if len(expected) == 20:
                break
    assert statuses.count("Batch Completed") >= 4
    assert not any(expected)


async def test_after_a_loss_of_the_server_what_was_stored_before_counts_as_delivered_before(
    stream: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long the backlog takes; but not what was stored later."""
    monkeypatch.setattr(puller_module, "REDELIVERY_SECONDS", 0)
    puller = stream.create_puller("EVENTS", "forwarder", window=4)
    await stream.publish("events.a", b"x", "1")
    await anext(aiter(puller))
    assert not puller.expects_redelivery(age_seconds=0)
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not stream.is_connected)
    nats_server.start()
    puller.renew_request()
    await asyncio.sleep(0.05)
    assert puller.expects_redelivery(age_seconds=1000)
    assert not puller.expects_redelivery(age_seconds=0.01)


async def test_a_puller_that_had_no_request_open_for_long_expects_redeliveries(
    stream: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another server may lead the consumer by now, and no request of it could show that."""
    monkeypatch.setattr(puller_module, "REDELIVERY_SECONDS", 0)
    puller = stream.create_puller("EVENTS", "forwarder", window=1)
    messages = aiter(puller)
    await stream.publish("events.a", b"1", "1")
    await stream.acknowledge(await anext(messages))
    puller.resize(0)
    monkeypatch.setattr(puller_module, "REDELIVERY_SECONDS", 60)
    puller.disturbed_at = -1000.0
    monkeypatch.setattr(puller_module, "HEARTBEAT_SECONDS", 0.05)
    await asyncio.sleep(0.11)  # less than the three heartbeats of a silence
    assert not puller.expects_redelivery()
    puller.resize(1)
    await stream.publish("events.a", b"2", "2")
    async with asyncio.timeout(5):
        await anext(messages)
    assert puller.expects_redelivery()


async def test_a_puller_reports_a_missing_consumer_and_continues_when_it_is_back(
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
    await wait_until(lambda: received == [b"one"])
    await stream.manager.delete_consumer("EVENTS", "forwarder")
    async with asyncio.timeout(5):
        await puller.consumer_missing.wait()
    await stream.publish("events.a", b"two", "2")
    await stream.manager.add_consumer("EVENTS", ConsumerConfig(durable_name="forwarder"))
    await wait_until(lambda: b"two" in received)
    assert not puller.consumer_missing.is_set()
    pulling.cancel()


async def test_a_stopped_puller_hands_out_its_buffer_and_ends(stream: Bus) -> None:
    for number in range(3):
        await stream.publish("events.a", b"%d" % number, str(number))
    puller = stream.create_puller("EVENTS", "forwarder", window=16)
    received = []
    async with asyncio.timeout(5):
        async for message in puller:
            received.append(message.data)
            if len(received) == 1:
                await wait_until(lambda: len(puller._buffer) == 2)
                puller.stop()
    assert received == [b"0", b"1", b"2"]


async def test_a_negative_acknowledgement_brings_a_counted_redelivery(stream: Bus) -> None:
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


async def test_a_puller_receives_no_more_bytes_than_it_requests(stream: Bus) -> None:
    for number in range(8):
        await stream.publish("events.a", b"x" * 9_000, str(number))
    puller = stream.create_puller("EVENTS", "forwarder", window=16)
    puller.resize(16, bytes_max=30_000)
    received = []
    async with asyncio.timeout(5):
        async for message in puller:
            received.append(message.sequence)
            if len(received) == 3:
                puller.resize(0, 0)  # nothing more until these are acknowledged
                break
    info = await stream.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert (len(received), info["num_ack_pending"], info["num_pending"]) == (3, 3, 5)


async def test_a_response_of_before_a_reconnect_is_not_sent_after_it(
    stream: Bus, nats_server: NatsServer
) -> None:
    """By then its sequence may be that of another message."""
    await stream.publish("events.a", b"x", "1")
    message = await anext(aiter(stream.create_puller("EVENTS", "forwarder", window=1)))
    await stream.flush()
    nats_server.signal(signal.SIGTERM)  # it keeps what it has delivered
    # In the buffer of the client, where a publish waits until its task writes it.
    await stream._client._send_command(b"PUB %s 4\r\n+ACK\r\n" % message.reply.encode())
    await wait_until(lambda: not stream.is_connected)
    await stream.acknowledge(message)
    nats_server.start()
    await stream.wait_until_connected()
    await stream.flush()
    await asyncio.sleep(0.2)  # the server takes acknowledgements from a queue
    info = await stream.request_api("CONSUMER.INFO.EVENTS.forwarder")
    assert info["num_ack_pending"] == 1
