"""An event that JetStream redelivers to another forwarder is not sent a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

import msgspec
import pytest
from broker import NatsServer, wait_until
from forwarding import Forwarder, Oracle, Publisher, Start
from receiver import Receiver, Reply

from sematext_agent.forwarder import peers
from sematext_agent.forwarder.peers import PeerAnswer, PeerQuestion, Peers
from sematext_agent.shared import bus
from sematext_agent.shared.settings import ServiceSettings

EVENTS = 200
DEDUPLICATED = "sematext_agent_events_deduplicated_total"


TOGETHER = pytest.mark.parametrize("peer_answer_seconds", [peers.ANSWER_SECONDS_MAX])
"""The value of the real service, for forwarders that have to hear each other."""


@TOGETHER
async def test_an_event_that_another_has_delivered_is_not_sent_again(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    """A consumer that forgets everything delivers every event again, half of them to the other."""
    forwarders = [await start()]
    await publisher.publish(EVENTS)
    await wait_until(lambda: receiver.stored.keys() >= publisher.acknowledged)
    forwarders.append(await start())
    while (await connection.request_api("CONSUMER.INFO.EVENTS.forwarder"))["num_waiting"] < 2:
        await asyncio.sleep(0.05)
    await connection.request_api("CONSUMER.RESET.EVENTS.forwarder", {"seq": 1})
    await wait_until(lambda: deduplicated(forwarders) >= EVENTS, 30)
    assert set(receiver.stored.values()) == {1}


def deduplicated(forwarders: Iterable[Forwarder]) -> float:
    """Return how many duplicates all of them together have not sent."""
    return sum(
        forwarder.health.registry.get_sample_value(DEDUPLICATED, {"service": "forwarder"}) or 0
        for forwarder in forwarders
    )


@TOGETHER
async def test_two_forwarders_share_the_work(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(seconds=0.01)
    forwarders = [await start(), await start()]
    await publisher.publish(2000)
    await verify()
    for forwarder in forwarders:
        assert 'events_delivered_total{service="forwarder"} 0.0' not in forwarder.metrics()


async def test_a_stopped_peer_is_waited_for_once(
    nats_server: NatsServer, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "ANSWER_SECONDS_MAX", 0.4)

    def answer(ids: Iterable[str], asker_gives_way: bool) -> PeerAnswer:
        return PeerAnswer(delivered=frozenset(ids) & {"a"}, in_flight=frozenset(ids) & {"b"})

    second = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "second")
    asker, peer = Peers(connection, "", answer), Peers(second, "", answer)
    await asker.discover()
    await peer.discover()
    together = await asker.ask(["a", "b", "c"])
    assert together.delivered == {"a"}
    assert together.in_flight == {"b"}
    await second.close()
    for seconds_max in (peers.ANSWER_SECONDS_MAX + 1, peers.ANSWER_SECONDS_MAX / 2):
        async with asyncio.timeout(seconds_max):
            assert await asker.ask(["a"]) == PeerAnswer()


async def test_a_peer_that_reconnects_later_is_asked_all_the_same(
    nats_server: NatsServer, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The broker keeps no question for it, and after its own reconnect it may take a while."""
    monkeypatch.setattr(peers, "ANSWER_SECONDS_MAX", 0.2)
    monkeypatch.setattr(peers, "RECONNECT_SECONDS", 5.0)

    def answer(ids: Iterable[str], asker_gives_way: bool) -> PeerAnswer:
        return PeerAnswer(delivered=frozenset(ids))

    second = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "second")
    asker, peer = Peers(connection, "", answer), Peers(second, "", answer)
    await asker.discover()
    await peer.discover()
    connect_to_server = second._client._select_next_server
    may_reconnect = asyncio.Event()

    async def reconnect_later() -> None:
        await may_reconnect.wait()
        await connect_to_server()

    monkeypatch.setattr(second._client, "_select_next_server", reconnect_later)
    nats_server.stop()
    await wait_until(lambda: not connection.is_connected)
    nats_server.start()
    asking = asyncio.create_task(asker.ask(["a"]))
    await connection.wait_until_connected()
    await asyncio.sleep(2 * peers.ANSWER_SECONDS_MAX)
    assert not asking.done()
    may_reconnect.set()
    assert (await asking).delivered == {"a"}
    await second.close()


async def test_of_two_that_ask_each_other_about_an_event_one_gives_way(
    nats_server: NatsServer, connection: bus.Bus
) -> None:
    gives_way: list[bool] = []

    def answer(ids: Iterable[str], asker_gives_way: bool) -> PeerAnswer:
        if ids:
            gives_way.append(asker_gives_way)
        return PeerAnswer()

    second = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "second")
    both_peers = Peers(connection, "", answer), Peers(second, "", answer)
    await asyncio.gather(*(peer.discover() for peer in both_peers))
    await asyncio.gather(*(peer.ask(["a"]) for peer in both_peers))
    assert sorted(gives_way) == [False, True]
    await second.close()


def test_the_fields_on_the_wire_are_those_of_every_version() -> None:
    question = msgspec.json.encode(PeerQuestion("inbox", ("a",)))
    assert question == b'{"asker":"inbox","ids":["a"]}'
    answer = PeerAnswer("inbox", delivered=frozenset("a"), in_flight=frozenset("b"))
    assert msgspec.json.encode(answer) == b'{"answerer":"inbox","shipped":["a"],"held":["b"]}'
