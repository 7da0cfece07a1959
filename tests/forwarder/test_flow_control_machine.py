"""Flow control in virtual time, beside a model of what each answer means.

The model is what docs/service-spec.md says of the four outcomes. Checked besides: a `Retry-After`
holds everything, nothing but a delivery closes the circuit, and no flow is stuck: with nothing in
flight and time enough, one send may begin.
"""

from __future__ import annotations

from forwarder.virtual_flow import VirtualFlow
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from sematext_agent.forwarder.circuit_breaker import FAILURES_MAX, REFUSALS_MAX
from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX
from sematext_agent.forwarder.destination import Answer, Outcome
from sematext_agent.forwarder.flow_control import BACKOFF_SECONDS_MAX, RETRY_AFTER_SECONDS_MAX
from sematext_agent.forwarder.sematext import judge

ANSWERS = st.builds(
    Answer,
    st.sampled_from([0, 200, 200, 202, 301, 400, 401, 404, 408, 413, 429, 500, 503]),
    retry_after=st.sampled_from([0.0, 0.0, 0.0, 1.0, 90.0, 86_400.0, 1e12]),
    timed_out=st.booleans(),
)


class FlowControlMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.flow = VirtualFlow()
        self.control, self.clock = self.flow.control, self.flow.clock
        self.in_flight = 0
        self.is_closed = True
        self.failures = self.refusals = 0
        self.throttled_until = 0.0

    @precondition(lambda self: self.control.may_send())
    @rule(sends=st.integers(1, 20))
    def begin(self, sends: int) -> None:
        for _ in range(sends):
            if self.control.may_send():
                self.control.begin()
                self.in_flight += 1

    @precondition(lambda self: self.in_flight)
    @rule(answer=ANSWERS, seconds=st.sampled_from([0.01, 5.0]))
    def end(self, answer: Answer, seconds: float) -> None:
        outcome = judge(answer).outcome
        self.flow.end(answer, seconds)
        self.in_flight -= 1
        match outcome:
            case Outcome.DELIVERED:
                self.is_closed, self.failures, self.refusals = True, 0, 0
            case Outcome.HOLD:
                self.is_closed = False
            case Outcome.RETRY:
                self.failures += 1
                self.is_closed &= self.failures < FAILURES_MAX
            case Outcome.REFUSED:
                self.failures = 0
                self.refusals += 1
                self.is_closed &= self.refusals < REFUSALS_MAX
        if answer.retry_after and outcome is not Outcome.REFUSED:
            pause = min(answer.retry_after, RETRY_AFTER_SECONDS_MAX)
            self.throttled_until = max(self.throttled_until, self.clock.now + pause)

    @rule(seconds=st.sampled_from([0.1, 1.0, 31.0, 3700.0]))
    def wait(self, seconds: float) -> None:
        self.clock.advance(seconds)

    @invariant()
    def the_circuit_is_closed_when_the_models_is(self) -> None:
        assert self.control.breaker.is_closed == self.is_closed
        assert self.control.limiter.in_flight == self.in_flight
        assert 1 <= self.control.limiter.limit <= IN_FLIGHT_MAX

    @invariant()
    def nothing_begins_while_throttled(self) -> None:
        if self.clock.now < self.throttled_until:
            assert not self.control.may_send()

    @invariant()
    def a_circuit_that_is_not_closed_lets_one_probe(self) -> None:
        if not self.is_closed and self.in_flight:
            assert not self.control.may_send()

    @invariant()
    def it_is_never_stuck(self) -> None:
        if self.control.may_send() or self.in_flight:
            return
        # Then its one timer ends the pause, in time.
        (timer,) = self.clock.timers
        longest = max(self.throttled_until, self.clock.now + BACKOFF_SECONDS_MAX)
        assert timer.when <= longest

    def teardown(self) -> None:
        before = self.flow.resumed
        while self.in_flight:
            self.end(Answer(500), 0.1)
        is_paused = not self.control.may_send()
        self.clock.advance(RETRY_AFTER_SECONDS_MAX + BACKOFF_SECONDS_MAX)
        assert self.control.may_send()
        assert not is_paused or self.flow.resumed > before


TestFlowControl = FlowControlMachine.TestCase
TestFlowControl.settings = settings(max_examples=80, stateful_step_count=40, deadline=None)
