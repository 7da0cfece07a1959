"""The pipeline without a broker and without a network: each way that a message can end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any, cast

import pytest
from broker import wait_until
from forwarder.virtual_time import VirtualClock
from forwarding import an_encoded_event

from sematext_agent.forwarder import circuit_breaker, lease, settlement
from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX
from sematext_agent.forwarder.destination import Answer, Judgement, OnAnswer
from sematext_agent.forwarder.host_facts import HostFactsCache
from sematext_agent.forwarder.pipeline import Pipeline
from sematext_agent.forwarder.sematext import judge
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.bus import Message, Puller
from sematext_agent.shared.events import Event, HostFacts
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

RETRY_SECONDS = 0.02


class BusStub:
    """Stands for the bus: keeps what it is asked to do."""

    is_connected = True

    def __init__(self) -> None:
        self.acknowledged: list[int] = []
        self.given_back: list[int] = []
        self.dead_letters: list[dict[str, str]] = []

    async def wait_until_connected(self) -> None:
        pass

    def new_inbox(self) -> str:
        return "_INBOX.a"

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        pass

    async def subscribe(self, subject: str, handler: object) -> None:
        pass

    async def acknowledge(self, message: Message, reply: str = "") -> None:
        self.acknowledged.append(message.sequence)

    async def negative_acknowledge(self, message: Message, seconds: float = 0) -> None:
        self.given_back.append(message.sequence)

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str]
    ) -> None:
        self.dead_letters.append(headers)


class PullerStub:
    """Stands for a puller."""

    disturbed_at = 0.0
    buffered = ()

    def expects_redelivery(self, age_seconds: float) -> bool:
        return False

    def resize(self, window: int, bytes_max: int = 0) -> None:
        pass


class DestinationStub:
    """Stands for a destination: keeps what is sent until a test answers it."""

    name = initial_status = "stub"

    def __init__(self) -> None:
        self.pending: list[OnAnswer] = []

    def encode(self, event: Event, facts: HostFacts | None) -> bytes:
        return event.id.encode()

    def send(self, document: bytes, on_answer: OnAnswer) -> None:
        self.pending.append(on_answer)

    def judge(self, answer: Answer) -> Judgement:
        return judge(answer)

    def close(self) -> None:
        pass


class Line:
    """A pipeline between stubs."""

    def __init__(self, tasks: asyncio.TaskGroup) -> None:
        self.bus = BusStub()
        self.destination = DestinationStub()
        self.clock = VirtualClock()
        self.health = Health("forwarder", "test")
        self.puller = cast(Puller, PullerStub())
        bus: Any = self.bus
        settings = ForwarderSettings()
        runtime = Runtime(settings, self.health, bus, asyncio.Event(), self.clock)
        facts = HostFactsCache(bus, clock=self.clock)
        self.pipeline = Pipeline(
            runtime, self.puller, facts, self.destination, tasks, lambda low, high: RETRY_SECONDS
        )
        self.tasks = self.pipeline.start(tasks)

    def receive(self, sequence: int, data: bytes | None = None, delivered: int = 1) -> None:
        """Hand in a message; they all hold the same event, unless `data` is given."""
        payload = an_encoded_event() if data is None else data
        headers = {"Nats-Msg-Id": "x" if data is None else str(sequence)}
        message = Message("events.a", payload, headers, sequence, delivered, 0, 0, "")
        self.pipeline.intake.receive(message, self.puller)

    async def answer(self, status: int) -> None:
        """Answer everything that was sent with `status`."""
        pending, self.destination.pending = self.destination.pending, []
        for on_answer in pending:
            on_answer(Answer(status))
        await self.settle()

    async def settle(self) -> None:
        """Let the tasks do all that they can."""
        for _ in range(10):
            await asyncio.sleep(0)

    def count(self, name: str, **labels: str) -> float:
        """Return the value of a counter."""
        full_name = f"sematext_agent_events_{name}_total"
        labels = {"service": "forwarder", **labels}
        return self.health.registry.get_sample_value(full_name, labels) or 0.0


@pytest.fixture
async def line(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Line]:
    monkeypatch.setattr(settlement, "CONFIRM_SECONDS", RETRY_SECONDS)
    async with asyncio.TaskGroup() as tasks:
        line = Line(tasks)
        yield line
        line.pipeline._sender.stop()
        for task in line.tasks:
            task.cancel()


async def test_delivered_then_acknowledged(line: Line) -> None:
    line.receive(1)
    await line.settle()
    assert line.bus.acknowledged == []
    await line.answer(200)
    assert line.bus.acknowledged == [1]
    assert line.count("delivered") == 1
    assert line.pipeline.in_flight.is_empty


async def test_a_duplicate_in_flight_is_acknowledged_with_the_delivery(line: Line) -> None:
    line.receive(1)
    line.receive(2)
    assert len(line.destination.pending) == 1
    await line.answer(200)
    assert line.bus.acknowledged == [1, 2]
    assert (line.count("delivered"), line.count("deduplicated")) == (1, 1)


async def test_a_duplicate_after_the_delivery_is_acknowledged_unsent(line: Line) -> None:
    line.receive(1)
    await line.answer(200)
    line.receive(2)
    await line.settle()
    assert not line.destination.pending
    assert line.bus.acknowledged == [1, 2]


async def test_a_failure_is_sent_again(line: Line) -> None:
    line.receive(1)
    await line.answer(500)
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert line.bus.acknowledged == []
    await line.answer(200)
    assert line.bus.acknowledged == [1]


async def test_failures_while_the_circuit_is_open_never_make_a_dead_letter(
    line: Line, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The destination is away, so nothing is wrong with the event."""
    monkeypatch.setattr(settlement, "ATTEMPTS_MAX", circuit_breaker.FAILURES_MAX + 1)
    line.receive(1)
    for _ in range(settlement.ATTEMPTS_MAX + 2):
        await line.answer(500)
        await wait_until(lambda: bool(line.destination.pending))
    assert line.bus.dead_letters == []
    await line.answer(200)
    assert line.bus.acknowledged == [1]


async def test_a_confirmed_refusal_is_acknowledged_once_the_dead_letter_is_safe(
    line: Line,
) -> None:
    line.receive(1)
    await line.answer(400)
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert line.bus.dead_letters == []
    await line.answer(400)
    (headers,) = line.bus.dead_letters
    assert headers["Agent-Dead-Reason"] == "answered 400"
    assert headers["Agent-Dead-Time"] == "1970-01-01T00:16:40.000000000Z"
    assert line.bus.acknowledged == [1]
    assert line.count("dead_lettered", reason="400") == 1


async def test_an_undecodable_message_becomes_a_dead_letter_at_once(line: Line) -> None:
    line.receive(1, b"?")
    await line.settle()
    assert line.bus.dead_letters[0]["Agent-Dead-Status"] == "0"
    assert line.bus.acknowledged == [1]
    assert line.count("dead_lettered", reason="undecodable") == 1


async def test_a_redelivered_event_is_asked_about_before_it_is_sent(line: Line) -> None:
    line.receive(1, delivered=2)
    assert not line.destination.pending
    assert list(line.pipeline.in_flight.possible_duplicates) == ["x"]
    await line.settle()  # nobody else is there
    assert len(line.destination.pending) == 1
    assert not line.pipeline.in_flight.possible_duplicates


async def test_a_peer_learns_what_is_delivered_and_in_flight_here(line: Line) -> None:
    answer = line.pipeline.deduplication._answer
    line.receive(1)
    assert answer(["x", "y"], False).in_flight == {"x"}
    await line.answer(200)
    assert answer(["x", "y"], False).delivered == {"x"}
    line.receive(2, an_encoded_event(id="y"), delivered=2)
    assert answer(["2"], False).in_flight == frozenset()
    assert answer(["2"], True).in_flight == {"2"}  # the asker gives way


async def test_after_the_lease_expired_nothing_is_sent(line: Line) -> None:
    line.receive(1)
    await line.answer(500)
    line.clock.advance(lease.LEASE_SECONDS + 1)
    await asyncio.sleep(2 * RETRY_SECONDS)
    line.receive(2, an_encoded_event(id="y"))
    assert not line.destination.pending
    assert line.bus.acknowledged == []
    assert line.count("released") == 2
    assert line.pipeline.in_flight.is_empty


async def test_while_the_broker_is_away_nothing_is_sent(line: Line) -> None:
    """It could not be acknowledged."""
    line.bus.is_connected = False
    line.receive(1)
    assert not line.destination.pending
    line.bus.is_connected = True
    line.pipeline._acknowledgements.confirm(line.clock.now)  # as the first renewal of the lease
    assert len(line.destination.pending) == 1


async def test_what_is_not_confirmed_counts_as_in_flight(line: Line) -> None:
    for sequence in range(IN_FLIGHT_MAX):
        line.receive(sequence, an_encoded_event(id=str(sequence)))
        await line.answer(200)
    assert len(line.bus.acknowledged) == IN_FLIGHT_MAX
    line.receive(IN_FLIGHT_MAX, an_encoded_event(id="next"))
    assert not line.destination.pending
    line.pipeline._acknowledgements.confirm(line.clock.now)
    assert len(line.destination.pending) == 1


async def test_an_event_of_an_earlier_epoch_is_not_sent_under_a_renewed_lease(line: Line) -> None:
    line.receive(1)
    await line.answer(500)
    line.clock.advance(lease.LEASE_SECONDS + 1)
    line.pipeline._lease.start_epoch()
    line.pipeline._lease.renew(line.clock.monotonic())
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert not line.destination.pending
    assert line.count("released") == 1
    assert line.pipeline.in_flight.is_empty
    line.receive(2, an_encoded_event(id="y"))
    assert len(line.destination.pending) == 1


async def test_after_the_lease_expired_nothing_becomes_a_dead_letter(line: Line) -> None:
    """Another forwarder may have made it one, and acknowledged it."""
    line.clock.advance(lease.LEASE_SECONDS + 1)
    line.receive(1, b"?")
    await line.settle()
    assert line.bus.dead_letters == []
    assert line.bus.acknowledged == []
    assert line.count("released") == 1


async def test_a_stop_gives_back_a_possible_duplicate(line: Line) -> None:
    line.receive(1, delivered=2)
    await line.pipeline.stop(0)
    assert line.bus.given_back == [1]


async def test_a_stop_gives_back_what_is_not_settled(line: Line) -> None:
    line.receive(1, an_encoded_event(id="a"))
    await line.answer(500)
    await line.pipeline.stop(0)
    assert line.bus.given_back == [1]
    await asyncio.sleep(2 * RETRY_SECONDS)
    assert not line.destination.pending
