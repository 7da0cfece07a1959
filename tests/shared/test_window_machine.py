"""The window of publishes beside a small model, with answers and faults in any order.

The model is a list of observations, each safe or not. At every step the window must hold the
cursors of its longest safe prefix, and publish each of its events once at a time.
"""

from __future__ import annotations

import asyncio
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sematext_agent.shared import collector
from sematext_agent.shared.bus import JetStreamError, PublishAck, PublishTimeout
from sematext_agent.shared.collector import Observation, PublishWindow
from sematext_agent.shared.events import AgentLifecycle, Event
from sematext_agent.shared.health import Health

WINDOW = 4
CURSOR_NAMES = st.sampled_from(["", "oom"])


class Put:
    """One observation in the model."""

    def __init__(self, observation: Observation) -> None:
        self.observation = observation
        self.safe = observation.event is None


class HeldBus:
    """A bus that holds every publish until the machine answers it."""

    def __init__(self) -> None:
        self.waiting: dict[str, tuple[bytes, asyncio.Future[PublishAck]]] = {}

    async def begin_publish(
        self, subject: str, payload: bytes, message_id: str
    ) -> asyncio.Future[PublishAck]:
        assert message_id not in self.waiting, "published again before the answer"
        self.waiting[message_id] = payload, asyncio.get_running_loop().create_future()
        return self.waiting[message_id][1]

    async def publish(self, *message: Any) -> PublishAck:
        return await (await self.begin_publish(*message))


class WindowMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.window_events_max, collector.WINDOW_EVENTS_MAX = collector.WINDOW_EVENTS_MAX, WINDOW
        self.loop = asyncio.new_event_loop()
        self.bus = HeldBus()
        self.window = PublishWindow(
            self.bus,  # type: ignore[arg-type]
            Health("test", "host"),
            self.loop,  # type: ignore[arg-type]
            uniform=lambda low, high: 0.0,
        )
        self.model: list[Put] = []
        self.cursors: dict[str, bytes] = {}
        self.payloads: dict[str, bytes] = {}
        self.number = 0
        self.kept_waiting: tuple[asyncio.Task[None], Put] | None = None

    def teardown(self) -> None:
        while self.bus.waiting:
            self.answer(next(iter(self.bus.waiting)), PublishAck(1))
        self.loop.run_until_complete(asyncio.wait_for(self.window.drain(), 5))
        self.the_cursors_are_those_of_the_safe_prefix()
        self.loop.close()
        collector.WINDOW_EVENTS_MAX = self.window_events_max

    def settle(self) -> None:
        for _ in range(6):
            self.loop.run_until_complete(asyncio.sleep(0))
        while self.model and self.model[0].safe:
            first = self.model.pop(0).observation
            if first.cursor is not None:
                self.cursors[first.cursor_name] = first.cursor
        if self.kept_waiting and len(self.model) <= WINDOW * 3 // 4:
            task, put = self.kept_waiting
            assert task.done()
            self.model.append(put)
            self.kept_waiting = None
            self.settle()

    def make_put(self, cursor_name: str, with_cursor: bool, with_event: bool = True) -> Put:
        self.number += 1
        body = AgentLifecycle(state="started", run=str(self.number))
        event = Event(id=str(self.number), time="", origin="o", agent="1", body=body)
        cursor = b"%d" % self.number if with_cursor else None
        return Put(Observation(event if with_event else None, cursor, cursor_name))

    def answer(self, message_id: str, outcome: PublishAck | Exception) -> None:
        payload, future = self.bus.waiting.pop(message_id)
        assert self.payloads.setdefault(message_id, payload) == payload, "another event, same id"
        if isinstance(outcome, PublishAck):
            for put in (*self.model, *([self.kept_waiting[1]] if self.kept_waiting else ())):
                if put.observation.event is not None and put.observation.event.id == message_id:
                    put.safe = True
            future.set_result(outcome)
        else:
            future.set_exception(outcome)
        self.settle()

    @precondition(lambda self: len(self.model) < WINDOW)
    @rule(cursor_name=CURSOR_NAMES, with_cursor=st.booleans(), with_event=st.booleans())
    def put(self, cursor_name: str, with_cursor: bool, with_event: bool) -> None:
        put = self.make_put(cursor_name, with_cursor or not with_event, with_event)
        self.model.append(put)
        self.loop.run_until_complete(self.window.put(put.observation))
        self.settle()

    @precondition(lambda self: len(self.model) == WINDOW and self.kept_waiting is None)
    @rule(cursor_name=CURSOR_NAMES)
    def put_into_a_full_window(self, cursor_name: str) -> None:
        put = self.make_put(cursor_name, with_cursor=True)
        task = self.loop.create_task(self.window.put(put.observation))
        self.settle()
        assert not task.done()
        self.kept_waiting = task, put

    @precondition(lambda self: self.bus.waiting)
    @rule(data=st.data(), duplicate=st.booleans())
    def acknowledge(self, data: st.DataObject, duplicate: bool) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.bus.waiting)))
        self.answer(message_id, PublishAck(1, duplicate))

    @precondition(lambda self: self.bus.waiting)
    @rule(data=st.data())
    def refuse(self, data: st.DataObject) -> None:
        message_id = data.draw(st.sampled_from(sorted(self.bus.waiting)))
        self.answer(message_id, JetStreamError(503, "maximum bytes exceeded"))

    @rule()
    def lose_the_broker(self) -> None:
        for message_id in list(self.bus.waiting):
            self.answer(message_id, PublishTimeout("the broker went away"))

    @rule()
    def store_the_cursors(self) -> None:
        self.window.cursors.clear()
        self.cursors.clear()

    @invariant()
    def the_cursors_are_those_of_the_safe_prefix(self) -> None:
        assert self.window.cursors == self.cursors

    @invariant()
    def every_event_that_is_not_safe_is_published_once(self) -> None:
        unsafe = {p.observation.event.id for p in self.model if not p.safe and p.observation.event}
        assert set(self.bus.waiting) == unsafe
        assert len(self.window) == len(self.model) <= WINDOW


TestWindow = WindowMachine.TestCase
TestWindow.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
