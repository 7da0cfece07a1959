"""The bus against a real nats-server: publishing, buckets, and a connection that is kept."""

from __future__ import annotations

import asyncio
import signal

import pytest
from broker import NatsServer, frame, raw_publish, wait_until

from sematext_agent.shared import bus
from sematext_agent.shared.bus import (
    Bus,
    BusError,
    JetStreamError,
    Msg,
    PublishTimeout,
    StreamConfig,
    publisher,
)
from sematext_agent.shared.bus import connection as connection_module
from sematext_agent.shared.settings import Secret, ServiceSettings


async def test_undecodable_messages_on_the_acknowledgement_inbox_do_not_stop_publishing(
    stream: Bus, nats_server: NatsServer
) -> None:
    inbox = stream._publisher._inbox.encode()
    raw_publish(nats_server, frame(inbox + b".\xff", b"{"), frame(inbox + b".999", b"not json"))
    assert (await stream.publish("events.a", b"x", "1")).seq == 1


@pytest.mark.parametrize("answer", [b"{}", b'{"stream":"EVENTS"}', b'{"seq":0}', b'{"seq":-1}'])
async def test_an_answer_without_a_sequence_is_no_acknowledgement(
    connection: Bus, answer: bytes
) -> None:
    async def respond(message: Msg) -> None:
        await connection.send(message.reply, answer)

    await connection.subscribe("plain.a", respond)
    with pytest.raises(PublishTimeout, match="no sequence"):
        await connection.publish("plain.a", b"x", "1")


async def test_an_error_acknowledgement_is_raised_and_the_next_publish_works(stream: Bus) -> None:
    publishes = [stream.publish("events.a", b"x" * 10_000, str(number)) for number in range(12)]
    with pytest.raises(JetStreamError, match="maximum bytes exceeded"):
        await asyncio.gather(*publishes)
    await stream.manager.purge_stream("EVENTS")
    assert not (await stream.publish("events.a", b"x", "after")).duplicate


async def test_a_subject_that_no_stream_takes_is_refused_at_once(stream: Bus) -> None:
    with pytest.raises(JetStreamError, match="no stream takes this subject"):
        await stream.publish("elsewhere.a", b"x", "1")


async def test_a_second_publish_with_the_same_id_is_a_duplicate(stream: Bus) -> None:
    first = await stream.publish("events.a", b"x", "same")
    second = await stream.publish("events.a", b"x", "same")
    assert (first.duplicate, second.duplicate) == (False, True)


def publish_100(connection: Bus) -> asyncio.Future[list[object]]:
    publishes = (connection.publish("events.a", b"x", str(number)) for number in range(100))
    return asyncio.ensure_future(asyncio.gather(*publishes, return_exceptions=True))


async def test_100_publishes_to_a_suspended_server_fail_at_their_deadline(
    stream: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ACKNOWLEDGEMENT_SECONDS_MAX", 0.3)
    nats_server.signal(signal.SIGSTOP)
    async with asyncio.timeout(5):
        outcomes = await publish_100(stream)
    nats_server.signal(signal.SIGCONT)
    assert {type(outcome) for outcome in outcomes} == {PublishTimeout}


async def test_100_publishes_to_a_killed_server_fail_at_once_and_succeed_when_repeated(
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


async def test_a_publish_waits_while_the_broker_is_away_and_is_stored_once(
    stream: Bus, nats_server: NatsServer
) -> None:
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not stream.is_connected)
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
    await wait_until(lambda: not stream.is_connected)
    # Sixty failures are the client's default limit; they are counted, not waited for.
    for server in client._server_pool:
        server.reconnects = 1000
    nats_server.start()
    await wait_until(lambda: stream.is_connected)


async def test_a_client_whose_reader_has_ended_is_a_fault(
    connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection_module, "WATCH_SECONDS", 0.05)
    watching = asyncio.create_task(connection.watch_connection())
    reader = connection._client._reading_task
    assert reader is not None
    reader.cancel()
    with pytest.raises(bus.ConnectionLost, match="reader"):
        async with asyncio.timeout(5):
            await watching


async def test_a_closed_client_is_a_fault(connection: Bus) -> None:
    watching = asyncio.create_task(connection.watch_connection())
    await connection._client.close()
    with pytest.raises(bus.ConnectionLost, match="closed"):
        async with asyncio.timeout(5):
            await watching


async def test_a_bucket_keeps_values_and_returns_none_for_missing_keys(connection: Bus) -> None:
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


async def test_publishing_recovers_after_the_permission_for_its_inbox_was_revoked(
    nats_server: NatsServer,
) -> None:
    """The broker drops the subscription for answers, and does not renew it by itself."""

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
