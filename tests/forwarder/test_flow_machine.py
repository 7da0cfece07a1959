"""The pace of all POSTs on a clock of the test's own, beside a model of what each answer means.

The model is what docs/service-spec.md says of the four outcomes. Checked besides: a `Retry-After`
holds everything, nothing but a delivery opens a closed flow, and no flow is stuck: with nothing in
flight and time enough, one POST may begin.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sematext_agent.forwarder.flow import (
    FAILURES_TO_CLOSE,
    IN_FLIGHT_MAX,
    REFUSALS_TO_CLOSE,
    RETRY_AFTER_SECONDS_MAX,
    Flow,
)
from sematext_agent.forwarder.transport import Answer
from sematext_agent.forwarder.verdict import Verdict, judge
from sematext_agent.shared.health import Health

CLOSED_SECONDS_MAX = 30.0
ANSWERS = st.builds(
    Answer,
    st.sampled_from([0, 200, 200, 202, 301, 400, 401, 404, 408, 413, 429, 500, 503]),
    retry_after=st.sampled_from([0.0, 0.0, 0.0, 1.0, 90.0, 86_400.0, 1e12]),
    timed_out=st.booleans(),
)


class TheLoop:
    """Stands for the event loop: a clock that the machine moves, and its one timer."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.timers: list[tuple[float, Callable[[], None]]] = []

    def time(self) -> float:
        return self.now

    def call_at(self, when: float, callback: Callable[[], None]) -> Any:
        timer = when, callback
        self.timers.append(timer)
        return _Handle(lambda: timer in self.timers and self.timers.remove(timer))

    def advance(self, seconds: float) -> None:
        end = self.now + seconds
        while self.timers and min(self.timers, key=lambda t: t[0])[0] <= end:
            timer = min(self.timers, key=lambda t: t[0])
            self.timers.remove(timer)
            self.now = timer[0]
            timer[1]()
        self.now = end


class _Handle:
    def __init__(self, cancel: Callable[[], object]) -> None:
        self.cancel = cancel


async def a_flow(on_room: Callable[[], None]) -> Flow:
    return Flow(Health("forwarder", "test"), "http://r", on_room)


class FlowMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.told_of_room = 0
        self.flow = asyncio.run(a_flow(self.on_room))
        self.flow._loop = self.clock = TheLoop()  # type: ignore[assignment]
        self.in_flight = 0
        self.is_open = True
        self.failures = self.refusals = 0
        self.asked_to_wait_until = 0.0

    def on_room(self) -> None:
        self.told_of_room += 1

    @precondition(lambda self: self.flow.has_room())
    @rule(posts=st.integers(1, 20))
    def enter(self, posts: int) -> None:
        for _ in range(posts):
            if self.flow.has_room():
                self.flow.enter()
                self.in_flight += 1

    @precondition(lambda self: self.in_flight)
    @rule(answer=ANSWERS, seconds=st.sampled_from([0.01, 5.0]))
    def leave(self, answer: Answer, seconds: float) -> None:
        verdict = judge(answer)
        self.flow.leave(verdict, answer, seconds)
        self.in_flight -= 1
        match verdict:
            case Verdict.DELIVERED:
                self.is_open, self.failures, self.refusals = True, 0, 0
            case Verdict.HOLD:
                self.is_open = False
            case Verdict.RETRY:
                self.failures += 1
                self.is_open &= self.failures < FAILURES_TO_CLOSE
            case Verdict.REFUSED:
                self.failures = 0
                self.refusals += 1
                self.is_open &= self.refusals < REFUSALS_TO_CLOSE
        if answer.retry_after and verdict is not Verdict.REFUSED:
            pause = min(answer.retry_after, RETRY_AFTER_SECONDS_MAX)
            self.asked_to_wait_until = max(self.asked_to_wait_until, self.clock.now + pause)

    @rule(seconds=st.sampled_from([0.1, 1.0, 31.0, 3700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def it_is_open_when_the_model_is(self) -> None:
        assert self.flow.is_open == self.is_open
        assert self.flow.in_flight == self.in_flight
        assert 1 <= self.flow.limit <= IN_FLIGHT_MAX

    @invariant()
    def nothing_begins_before_the_receiver_asked_for_it(self) -> None:
        if self.clock.now < self.asked_to_wait_until:
            assert not self.flow.has_room()

    @invariant()
    def a_closed_flow_lets_one_try(self) -> None:
        if not self.is_open and self.in_flight:
            assert not self.flow.has_room()

    @invariant()
    def it_is_never_stuck(self) -> None:
        if self.flow.has_room() or self.in_flight:
            return
        # Then a timer will say so, and in time.
        assert self.clock.timers
        longest = max(self.asked_to_wait_until, self.clock.now + CLOSED_SECONDS_MAX)
        assert self.clock.timers[0][0] <= longest
        assert len(self.clock.timers) == 1

    def teardown(self) -> None:
        before = self.told_of_room
        while self.in_flight:
            self.leave(Answer(500), 0.1)
        paused = not self.flow.has_room()
        self.clock.advance(RETRY_AFTER_SECONDS_MAX + CLOSED_SECONDS_MAX)
        assert self.flow.has_room()
        assert not paused or self.told_of_room > before


TestFlow = FlowMachine.TestCase
TestFlow.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
