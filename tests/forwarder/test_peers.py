"""A copy that the stream delivers to another forwarder is not sent a second time."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from broker import NatsServer, eventually
from forwarding import Forwarder, Publisher, Start
from receiver import Receiver

from sematext_agent.forwarder.peers import ANSWER_SECONDS_MAX, Known, Peers
from sematext_agent.shared import bus
from sematext_agent.shared.settings import ServiceSettings

EVENTS = 200
REPEATED = "sematext_agent_events_repeated_total"


async def test_what_another_has_shipped_is_not_sent_again(
    start: Start, publisher: Publisher, receiver: Receiver, connection: bus.Bus
) -> None:
    """A consumer that forgets everything delivers every event again, half of them to the other."""
    forwarders = [await start()]
    await publisher.publish(EVENTS)
    await eventually(lambda: receiver.stored.keys() >= publisher.acknowledged)
    forwarders.append(await start())
    while (await connection.request_api("CONSUMER.INFO.EVENTS.forwarder"))["num_waiting"] < 2:
        await asyncio.sleep(0.05)
    await connection.request_api("CONSUMER.RESET.EVENTS.forwarder", {"seq": 1})
    await eventually(lambda: repeated(forwarders) >= EVENTS, 30)
    assert set(receiver.stored.values()) == {1}


def repeated(forwarders: Iterable[Forwarder]) -> float:
    """How many copies all of them together have not sent."""
    return sum(
        one.health.registry.get_sample_value(REPEATED, {"service": "forwarder"}) or 0
        for one in forwarders
    )


async def test_a_peer_that_is_gone_is_waited_for_once(
    nats_server: NatsServer, connection: bus.Bus
) -> None:
    def know(ids: Iterable[str], is_first: bool) -> Known:
        return Known(shipped=frozenset(ids) & {"a"}, held=frozenset(ids) & {"b"})

    other = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "other")
    peers = [Peers(one, "", know) for one in (connection, other)]
    for one in peers:
        await one.meet()
    known = await peers[0].ask(["a", "b", "c"])
    assert (known.shipped, known.held) == ({"a"}, {"b"})
    await other.close()
    for longest in (ANSWER_SECONDS_MAX + 1, ANSWER_SECONDS_MAX / 2):
        async with asyncio.timeout(longest):
            assert await peers[0].ask(["a"]) == Known()
