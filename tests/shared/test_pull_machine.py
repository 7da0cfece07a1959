"""The puller's account of what it asked for, beside that of a server which keeps its own.

What both must agree on, whatever ends a request: how many messages are still to come. A puller that
counts too many asks no more, and nothing comes for ever; one that counts too few takes more than it
has room for.
"""

from __future__ import annotations

import asyncio
import json
from types import SimpleNamespace
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sematext_agent.shared.bus import Message, puller
from sematext_agent.shared.bus.connection import Connection
from sematext_agent.shared.bus.puller import Puller

WINDOW = 8


class TheClient:
    """Stands for the client: requests reach the model of the server at once."""

    is_connected = True

    def __init__(self) -> None:
        self.requests: list[int] = []
        """How many messages each open request still wants."""

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
        self.backoff, puller.Backoff = puller.Backoff, lambda *_: _NoWait()  # type: ignore[assignment]
        self.loop = asyncio.new_event_loop()
        self.client = TheClient()
        self.puller = Puller(Connection(self.client), "EVENTS", "forwarder", WINDOW)  # type: ignore[arg-type]
        self.window_most = WINDOW
        self.window = WINDOW
        self.sent = 0
        self.taken: list[Message] = []
        self.may_take = asyncio.Semaphore(0)
        self.taking = self.loop.create_task(self.take_all())
        self.settle()

    async def take_all(self) -> None:
        async for message in self.puller:
            await self.may_take.acquire()
            self.taken.append(message)

    def settle(self) -> None:
        for _ in range(8):
            self.loop.run_until_complete(asyncio.sleep(0))

    def teardown(self) -> None:
        self.puller.stop()
        for _ in range(self.sent + 1):
            self.may_take.release()
        self.loop.run_until_complete(asyncio.wait_for(self.taking, 5))
        self.settle()
        self.loop.close()
        puller.Backoff = self.backoff  # type: ignore[misc]
        assert [message.sequence for message in self.taken] == list(range(self.sent))

    def arrives(self, reply: str, headers: dict[str, str] | None = None) -> None:
        message = SimpleNamespace(subject="events.a", reply=reply, data=b"", headers=headers)
        self.loop.run_until_complete(self.puller._on_message(message))  # type: ignore[arg-type]
        self.settle()

    @precondition(lambda self: self.client.requests)
    @rule()
    def deliver(self) -> None:
        self.client.requests[0] -= 1
        if not self.client.requests[0]:
            self.client.requests.pop(0)
        self.sent += 1
        self.arrives(f"$JS.ACK.EVENTS.forwarder.1.{self.sent - 1}.1.1.0")

    @rule()
    def take(self) -> None:
        self.may_take.release()
        self.settle()

    @precondition(lambda self: self.client.requests)
    @rule(data=st.data(), status=st.sampled_from(["408", "409"]))
    def end_a_request(self, data: st.DataObject, status: str) -> None:
        at = data.draw(st.integers(0, len(self.client.requests) - 1))
        unsent = self.client.requests.pop(at)
        self.arrives("", {"Status": status, "Nats-Pending-Messages": str(unsent)})

    @rule()
    def send_a_heartbeat(self) -> None:
        self.arrives("", {"Status": "100", "Description": "Idle Heartbeat"})

    @rule()
    def restart_the_server(self) -> None:
        self.client.requests.clear()
        self.loop.call_soon(self.puller.renew_request)
        self.settle()

    @rule()
    def remove_the_consumer(self) -> None:
        self.client.requests.clear()
        self.arrives("", {"Status": "503"})
        assert self.puller.consumer_missing.is_set()

    @rule(window=st.sampled_from([0, 4, WINDOW]))
    def resize(self, window: int) -> None:
        self.window = window
        self.puller.resize(window)
        self.settle()

    @invariant()
    def both_count_the_same(self) -> None:
        assert self.puller._outstanding == sum(self.client.requests)

    @invariant()
    def no_more_is_asked_for_than_there_is_room_for(self) -> None:
        assert self.puller._outstanding + len(self.puller._buffer) <= WINDOW

    @invariant()
    def somebody_who_has_nothing_and_wants_something_has_asked(self) -> None:
        if self.window and not self.puller._buffer and not self.taking.done():
            idle = len(self.taken) == self.sent  # nobody holds the last one up
            assert self.client.requests or not idle


class _NoWait:
    def draw_delay_seconds(self) -> float:
        return 0.0

    def reset(self) -> None: ...


TestPull = PullMachine.TestCase
TestPull.settings = settings(max_examples=40, stateful_step_count=30, deadline=None)
