"""The orderly end of a forwarder: what it still delivers, and what it gives back."""

from __future__ import annotations

import asyncio
import signal
import time

import pytest
from broker import NatsServer, wait_until
from forwarding import (
    Oracle,
    Publisher,
    Start,
)
from receiver import Receiver, Reply

from sematext_agent.forwarder import pipeline
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Duration


async def test_events_that_arrive_during_the_stop_are_delivered(
    start: Start, publisher: Publisher, verify: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As when the whole agent stops at once, and `agent_stopped` arrives after the signal."""
    monkeypatch.setattr(pipeline, "QUIET_SECONDS", 1.0)
    forwarder = await start()
    forwarder.stopping.set()
    await asyncio.sleep(0.3)
    await publisher.publish(5)
    await forwarder.stop()
    await verify()


async def test_stop_waits_for_answers_and_gives_the_rest_back(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver, connection: bus.Bus
) -> None:
    receiver.reply = Reply(seconds=0.8)
    forwarder = await start(drain_seconds=Duration(0.5))
    await publisher.publish(100)
    await wait_until(lambda: receiver.in_flight == 16)
    await forwarder.stop()
    assert len(receiver.stored) == 16
    # Given back: they are delivered at once, not when the stream tires of waiting.
    receiver.reply = Reply()
    await start()
    await verify(seconds=5)


async def test_stop_while_holding_does_not_wait(
    start: Start, publisher: Publisher, verify: Oracle, receiver: Receiver
) -> None:
    receiver.reply = Reply(403)
    forwarder = await start(drain_seconds=Duration(30))
    await publisher.publish(20)
    await wait_until(lambda: not forwarder.receiver_condition[0])
    began = time.monotonic()
    await forwarder.stop()
    assert time.monotonic() - began < 3
    receiver.reply = Reply()
    await start()
    await verify()


async def test_a_stop_without_a_broker_sends_nothing_more(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    nats_server: NatsServer,
    connection: bus.Bus,
) -> None:
    """It could not be acknowledged, so the next start would send it once more."""
    receiver.replies.append(Reply(503, headers={"Retry-After": "3"}))
    forwarder = await start(drain_seconds=Duration(6))
    await publisher.publish()
    await wait_until(lambda: not forwarder.receiver_condition[0])
    await publisher.publish(50)
    await wait_until(lambda: forwarder.figure("events_in_flight") == 51)
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not connection.is_connected)
    await forwarder.stop()
    assert receiver.stored.total() == 0
