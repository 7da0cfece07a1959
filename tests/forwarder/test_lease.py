"""The lease in virtual time: it expires unless the broker answers, and an expiry ends an epoch."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from forwarder.virtual_time import VirtualClock

from sematext_agent.forwarder import consumers
from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.lease import LEASE_SECONDS, AckLease, keep_lease
from sematext_agent.shared.bus import BusError, Message


class BrokerStub:
    """Stands for the bus and the consumer: notes extended messages, answers while reachable."""

    def __init__(self) -> None:
        self.extended: list[int] = []
        self.is_reachable = True

    async def extend_ack_deadline(self, message: Message) -> None:
        self.extended.append(message.sequence)

    def on_reconnect(self, callback: Callable[[], None]) -> None:
        self.reconnect = callback

    async def request_info(self) -> None:
        if not self.is_reachable:
            raise BusError("no answer")


class NoPuller:
    def resize(self, window: int, bytes_max: int = 0) -> None:
        pass


class Round:
    """One lease, kept in rounds that a test runs one by one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.clock = VirtualClock()
        self.lease = AckLease(self.clock)
        puller: Any = NoPuller()
        self.in_flight = InFlight(puller)
        self.broker = BrokerStub()
        self.renewed = 0
        monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 0)

    def add(self, number: int) -> None:
        message = Message("events.a", b"", {}, number, 1, 0, 0, "")
        epoch = self.lease.epoch
        delivery = Delivery(str(number), {number: message}, b"", 0, self.clock.now, epoch)
        self.in_flight.add(delivery)

    async def run(self) -> None:
        def count(requested_at: float) -> None:
            self.renewed += 1

        broker: Any = self.broker
        keeping = asyncio.create_task(
            keep_lease(self.lease, self.in_flight, broker, broker, self.clock, count)
        )
        for _ in range(5):
            await asyncio.sleep(0)
            if self.renewed or not self.broker.is_reachable:
                break
        keeping.cancel()


@pytest.fixture
def keeper(monkeypatch: pytest.MonkeyPatch) -> Round:
    return Round(monkeypatch)


async def test_an_answer_of_the_broker_renews_it(keeper: Round) -> None:
    keeper.clock.advance(LEASE_SECONDS - 1)
    await keeper.run()
    keeper.clock.advance(LEASE_SECONDS - 1)
    assert not keeper.lease.is_expired()
    assert (keeper.renewed, keeper.lease.epoch) == (1, 0)
    keeper.clock.advance(2)
    assert keeper.lease.is_expired()


async def test_without_an_answer_it_expires(keeper: Round) -> None:
    keeper.broker.is_reachable = False
    keeper.clock.advance(LEASE_SECONDS)
    await keeper.run()
    keeper.clock.advance(1)
    assert keeper.lease.is_expired()
    assert keeper.renewed == 0


async def test_it_is_renewed_at_once_after_a_reconnect(
    keeper: Round, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What waits for the broker to be back is sent then."""
    monkeypatch.setattr(consumers, "ACK_WAIT_SECONDS", 1000)
    running = asyncio.create_task(keeper.run())
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    keeper.broker.reconnect()
    await running
    assert keeper.renewed == 1


async def test_an_expiry_starts_an_epoch_and_gives_up_what_arrived_before(
    keeper: Round, caplog: pytest.LogCaptureFixture
) -> None:
    keeper.add(1)
    keeper.clock.advance(LEASE_SECONDS + 1)
    keeper.lease.renew(keeper.clock.now)
    keeper.add(2)
    await asyncio.sleep(0)
    keeper.clock.advance(LEASE_SECONDS + 1)
    await keeper.run()
    assert keeper.lease.epoch == 1
    assert keeper.broker.extended == []
    assert not keeper.lease.is_expired()
    assert "lease expired" in caplog.text


async def test_deadlines_of_what_is_in_flight_are_extended(keeper: Round) -> None:
    keeper.add(1)
    keeper.clock.advance(1)
    keeper.add(2)
    keeper.clock.advance(1)
    await keeper.run()
    assert keeper.broker.extended == [1, 2]
