"""After the broker's store was put back to a copy, nothing of before settles other events."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker import NatsServer, wait_until
from forwarding import Forwarder, Oracle, Publisher, Start, until_acknowledged
from receiver import Receiver

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.stream_identity import StreamIdentity
from sematext_agent.shared.bus import Bus, BusError, Message
from sematext_agent.shared.clock import SYSTEM_CLOCK

HELD = 3
SAFE = 2
"""Events in the backup of the broker's store, all of them delivered."""


class HeldAnswers:
    """A receiver that stores what it gets, and answers when the gate of that moment opens."""

    def __init__(self, receiver: Receiver) -> None:
        self._answer = receiver._answer
        self.gate = asyncio.Event()
        receiver._answer = self.answer  # type: ignore[method-assign, assignment]

    async def answer(self, *arguments: Any) -> bool:
        await self.gate.wait()
        return await self._answer(*arguments)


@pytest.fixture
async def held(receiver: Receiver) -> AsyncIterator[HeldAnswers]:
    answers = HeldAnswers(receiver)
    yield answers
    answers.gate.set()


@pytest.fixture
async def forwarder(
    start: Start, publisher: Publisher, held: HeldAnswers, connection: Bus
) -> Forwarder:
    """Return a forwarder that has delivered the first events."""
    held.gate.set()
    forwarder = await start()
    await publisher.publish(SAFE)
    await until_acknowledged(connection)
    held.gate = asyncio.Event()
    return forwarder


async def save(nats_server: NatsServer, connection: Bus) -> Path:
    backup = await asyncio.to_thread(nats_server.save)
    await asyncio.to_thread(nats_server.start)
    await connection.wait_until_connected()
    return backup


async def pending(connection: Bus) -> tuple[int, int]:
    """Return the ack floor of the consumer, and how many events it waits to be acknowledged."""
    info = await connection.request_api("CONSUMER.INFO.EVENTS.forwarder")
    return info["ack_floor"]["stream_seq"], info["num_ack_pending"]


async def answer_all(forwarder: Forwarder, gate: asyncio.Event, delivered: int) -> None:
    """Open the gate, and wait until the forwarder has acknowledged what it acknowledges."""
    gate.set()
    count = f'events_delivered_total{{service="forwarder"}} {delivered}.0'
    await wait_until(lambda: count in forwarder.metrics())
    await forwarder._bus.flush()
    await asyncio.sleep(0.2)  # the server takes acknowledgements from a queue


async def test_late_acknowledgements_settle_no_event_that_has_their_sequence_now(
    forwarder: Forwarder,
    publisher: Publisher,
    receiver: Receiver,
    verify: Oracle,
    held: HeldAnswers,
    nats_server: NatsServer,
    connection: Bus,
    caplog: pytest.LogCaptureFixture,
) -> None:
    backup = await save(nats_server, connection)
    await publisher.publish(HELD)
    await wait_until(lambda: receiver.in_flight == HELD)
    await asyncio.to_thread(nats_server.put_back, backup)
    await asyncio.to_thread(nats_server.start)
    old_gate, held.gate = held.gate, asyncio.Event()
    await publisher.publish(HELD)
    await wait_until(lambda: receiver.in_flight == 2 * HELD)

    await answer_all(forwarder, old_gate, SAFE + HELD)
    assert await pending(connection) == (SAFE, HELD)
    assert "the stream counts its events anew" in caplog.text
    await answer_all(forwarder, held.gate, SAFE + 2 * HELD)
    assert await pending(connection) == (SAFE + HELD, 0)
    await verify()


async def test_after_a_restart_on_the_same_store_late_acknowledgements_count(
    forwarder: Forwarder,
    publisher: Publisher,
    receiver: Receiver,
    held: HeldAnswers,
    nats_server: NatsServer,
    connection: Bus,
    caplog: pytest.LogCaptureFixture,
) -> None:
    await publisher.publish(HELD)
    await wait_until(lambda: receiver.in_flight == HELD)
    await save(nats_server, connection)
    await answer_all(forwarder, held.gate, SAFE + HELD)
    await wait_until(lambda: forwarder._bus.is_connected)
    async with asyncio.timeout(5):  # less than the ack deadline
        while await pending(connection) != (SAFE + HELD, 0):
            await asyncio.sleep(0.02)
    assert "anew" not in caplog.text


async def test_late_acknowledgements_settle_no_event_of_a_stream_that_was_made_anew(
    forwarder: Forwarder,
    publisher: Publisher,
    receiver: Receiver,
    verify: Oracle,
    held: HeldAnswers,
    connection: Bus,
) -> None:
    await publisher.publish(HELD)
    await wait_until(lambda: receiver.in_flight == HELD)
    old_gate, held.gate = held.gate, asyncio.Event()
    await connection.request_api("STREAM.DELETE.EVENTS")
    await publisher.publish(SAFE + HELD)
    await wait_until(lambda: receiver.in_flight == 2 * HELD + SAFE)
    await answer_all(forwarder, old_gate, SAFE + HELD)
    assert await pending(connection) == (0, SAFE + HELD)
    await answer_all(forwarder, held.gate, 2 * (SAFE + HELD))
    await verify()


class StreamStub:
    """Stands for a broker that does not let the forwarder read a message."""

    last_sequence = 9

    def __init__(self) -> None:
        self.is_connected = True
        self.acknowledged: list[int] = []

    def new_inbox(self) -> str:
        return "_INBOX.a"

    async def subscribe(self, subject: str, handler: object) -> None:
        pass

    async def acknowledge(self, message: Message, reply: str = "") -> None:
        self.acknowledged.append(message.sequence)

    async def wait_until_connected(self) -> None:
        while not self.is_connected:
            await asyncio.sleep(0)

    async def request_api(self, call: str, request: object, domain: str) -> dict[str, Any]:
        if call == "STREAM.INFO.EVENTS":
            return {"state": {"last_seq": self.last_sequence}}
        raise BusError("no answer")


class PullerStub:
    disturbed_at = 0.0
    buffered: tuple[Message, ...] = ()

    def resize(self, window: int, bytes_max: int = 0) -> None:
        pass


@pytest.mark.parametrize(("last_sequence", "is_changed"), [(9, False), (8, True)])
async def test_without_the_right_to_read_a_message_the_last_sequence_decides(
    last_sequence: int, is_changed: bool
) -> None:
    stream: Any = StreamStub()
    puller: Any = PullerStub()
    identity = StreamIdentity(stream, "", InFlight(puller))
    changes: list[None] = []
    identity.on_change.append(lambda: changes.append(None))
    assert await identity.admit(Message("events.a", b"", {}, 9, 1, 0, 0, "", received_at=1.0))
    stream.last_sequence, puller.disturbed_at = last_sequence, 2.0
    await identity.confirm()
    assert bool(changes) == is_changed


@pytest.mark.parametrize(("last_sequence", "acknowledged"), [(9, [9]), (8, [])])
async def test_an_acknowledgement_waits_until_the_stream_is_known_to_be_the_same(
    last_sequence: int, acknowledged: list[int]
) -> None:
    stream: Any = StreamStub()
    puller: Any = PullerStub()
    in_flight = InFlight(puller)
    identity = StreamIdentity(stream, "", in_flight)
    acknowledgements = Acknowledgements(stream, identity, in_flight, SYSTEM_CLOCK)
    identity.on_change.append(acknowledgements.forget)
    message = Message("events.a", b"", {}, 9, 1, 0, 0, "", received_at=1.0)
    await identity.admit(message)
    stream.is_connected = False
    running = asyncio.create_task(acknowledgements.run())
    acknowledgements.add(message)
    for _ in range(10):
        await asyncio.sleep(0)
    assert stream.acknowledged == []
    stream.is_connected, stream.last_sequence, puller.disturbed_at = True, last_sequence, 2.0
    await wait_until(lambda: not acknowledgements)
    running.cancel()
    assert stream.acknowledged == acknowledged


async def test_a_message_that_arrived_before_a_change_is_not_admitted() -> None:
    stream: Any = StreamStub()
    puller: Any = PullerStub()
    identity = StreamIdentity(stream, "", InFlight(puller))
    old = Message("events.a", b"", {}, 10, 1, 0, 0, "", received_at=1.0)
    puller.buffered, puller.disturbed_at = (old,), 2.0  # it alone shows the change
    assert await identity.admit(Message("events.a", b"", {}, 8, 1, 0, 0, "", received_at=3.0))
    assert not await identity.admit(old)


class HalfDisconnectedBus(StreamStub):
    """The bus between the moment nats-py loses its connection and the moment it calls us."""

    async def wait_until_connected(self) -> None:
        """Return at once, as what nats-py has not called yet still says connected."""


@pytest.mark.timeout(10)
async def test_a_connection_that_nobody_was_called_about_yet_leaves_the_loop_to_others() -> None:
    """Its reconnecting runs on the loop, too."""
    stream: Any = HalfDisconnectedBus()
    puller: Any = PullerStub()
    identity = StreamIdentity(stream, "", InFlight(puller))
    stream.is_connected = False
    confirming = asyncio.create_task(identity.confirm())
    await asyncio.sleep(0.01)
    stream.is_connected = True
    await confirming
    assert identity.is_confirmed
