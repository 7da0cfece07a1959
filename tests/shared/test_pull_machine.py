"""The puller's count of outstanding messages, beside that of a model of the server.

Both must agree whatever ends a request. A puller that counts too many makes no new request, so that
nothing arrives for ever; one that counts too few gets more messages than its window.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sematext_agent.shared.bus import Message
from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.bus.puller import Puller

WINDOW = 8


class ModelClient:
    """A client whose requests reach the model of the server at once."""

    is_connected = True

    def __init__(self) -> None:
        self.requests: list[int] = []
        """Outstanding messages of each open request."""

    def new_inbox(self) -> str:
        return "_INBOX.1"

    async def subscribe(self, inbox: str, cb: Any) -> Any:
        async def nothing() -> None: ...

        return SimpleNamespace(unsubscribe=nothing)

    async def publish(self, subject: str, payload: bytes, reply: str) -> None:
        self.requests.append(json.loads(payload)["batch"])


class PullMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.client = ModelClient()
        connection = Connection(self.client, uniform=lambda low, high: 0.0)  # type: ignore[arg-type]
        self.puller = Puller(connection, "EVENTS", "forwarder", WINDOW)
        self.window = WINDOW
        self.delivered_count = 0
        self.messages: list[Message] = []
        self.may_take = asyncio.Semaphore(0)
        self.taking = self.loop.create_task(self.take_all())
        self.settle()

    async def take_all(self) -> None:
        async for message in self.puller:
            await self.may_take.acquire()
            self.messages.append(message)

    def settle(self) -> None:
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))

    def teardown(self) -> None:
        self.puller.stop()
        for _ in range(self.delivered_count + 1):
            self.may_take.release()
        self.loop.run_until_complete(asyncio.wait_for(self.taking, 5))
        self.settle()
        self.loop.close()
        assert [message.sequence for message in self.messages] == list(range(self.delivered_count))

    def receive(self, reply: str, headers: dict[str, str] | None = None) -> None:
        message = SimpleNamespace(subject="events.a", reply=reply, data=b"", headers=headers)
        self.loop.run_until_complete(self.puller._on_message(message))  # type: ignore[arg-type]
        self.settle()

    @precondition(lambda self: self.client.requests)
    @rule()
    def deliver(self) -> None:
        self.client.requests[0] -= 1
        if not self.client.requests[0]:
            self.client.requests.pop(0)
        self.delivered_count += 1
        self.receive(f"$JS.ACK.EVENTS.forwarder.1.{self.delivered_count - 1}.1.1.0")

    @rule()
    def take(self) -> None:
        self.may_take.release()
        self.settle()

    @precondition(lambda self: self.client.requests)
    @rule(data=st.data(), status=st.sampled_from(["408", "409"]))
    def end_a_request(self, data: st.DataObject, status: str) -> None:
        at = data.draw(st.integers(0, len(self.client.requests) - 1))
        unsent = self.client.requests.pop(at)
        self.receive("", {"Status": status, "Nats-Pending-Messages": str(unsent)})

    @rule()
    def send_a_heartbeat(self) -> None:
        self.receive("", {"Status": "100", "Description": "Idle Heartbeat"})

    @rule()
    def restart_the_server(self) -> None:
        self.client.requests.clear()
        self.loop.call_soon(self.puller.renew_request)
        self.settle()

    @rule()
    def remove_the_consumer(self) -> None:
        self.client.requests.clear()
        self.receive("", {"Status": "503"})
        assert self.puller.consumer_missing.is_set()

    @rule(window=st.sampled_from([0, 4, WINDOW]))
    def resize(self, window: int) -> None:
        self.window = window
        self.puller.resize(window)
        self.settle()

    @invariant()
    def puller_and_server_agree_on_the_outstanding_messages(self) -> None:
        assert self.puller._outstanding == sum(self.client.requests)

    @invariant()
    def outstanding_and_buffered_messages_fit_into_the_window(self) -> None:
        assert self.puller._outstanding + len(self.puller._buffer) <= WINDOW

    @invariant()
    def a_puller_with_an_empty_buffer_has_an_open_request(self) -> None:
        if self.window and not self.puller._buffer and not self.taking.done():
            idle = len(self.messages) == self.delivered_count  # the reader holds no message back
            assert self.client.requests or not idle


TestPull = PullMachine.TestCase
TestPull.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
