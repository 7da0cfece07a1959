"""Another destination: a module with encode, send and judge, and nothing else of the forwarder."""

from __future__ import annotations

import asyncio
import json

from broker import NatsServer, wait_until
from forwarding import Publisher, until_acknowledged

from sematext_agent.forwarder.destination import Answer, Judgement, OnAnswer, Outcome
from sematext_agent.forwarder.forward import forward
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared import bus
from sematext_agent.shared.events import Event, HostFacts
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

BUSY, STORED = Answer(0, problem="busy"), Answer(1)


class Memory:
    """A destination that keeps documents in memory and is busy at every third."""

    name = "memory"
    initial_status = "memory: empty"

    def __init__(self) -> None:
        self.documents: list[str] = []
        self.sends = 0
        self.is_closed = False

    def encode(self, event: Event, facts: HostFacts | None) -> bytes:
        return json.dumps(event.id).encode()

    def send(self, document: bytes, on_answer: OnAnswer) -> None:
        self.sends += 1
        if self.sends % 3:
            self.documents.append(json.loads(document))
        answer = STORED if self.sends % 3 else BUSY
        asyncio.get_running_loop().call_soon(on_answer, answer)

    def judge(self, answer: Answer) -> Judgement:
        outcome = Outcome.DELIVERED if answer is STORED else Outcome.RETRY
        return Judgement(outcome, detail=answer.problem)

    def close(self) -> None:
        self.is_closed = True


async def test_events_are_delivered_to_the_destination_that_is_handed_in(
    nats_server: NatsServer, publisher: Publisher, connection: bus.Bus
) -> None:
    settings = ForwarderSettings(nats_url=(nats_server.url,))
    own = await bus.connect(settings, "forwarder")
    runtime = Runtime(settings, Health("forwarder", "test"), own, asyncio.Event())
    memory = Memory()
    forwarding = asyncio.create_task(forward(runtime, lambda _: memory, lambda low, high: 0.01))
    ids = await publisher.publish(30)
    await wait_until(lambda: len(memory.documents) == len(ids))
    assert sorted(memory.documents) == sorted(ids)
    await until_acknowledged(connection)
    runtime.stopping.set()
    await forwarding
    await own.close()
    assert memory.is_closed
    assert memory.sends == 44  # 30, and the fourteen that were busy
