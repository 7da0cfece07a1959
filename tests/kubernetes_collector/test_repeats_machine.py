"""The interval at which repeats are told, on a clock of the test's own, beside a model.

What must hold: nothing of an event is told twice within the interval, its last repeat is always
told in the end, and the place that is stored stays before everything that waits.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from sematext_agent.kubernetes_collector import selection
from sematext_agent.kubernetes_collector.selection import Repeats
from sematext_agent.shared.events import Event, KubernetesEvent

SECONDS = 10.0
UIDS = st.sampled_from(["a", "b", "c"])


def an_event(uid: str, revision: int) -> Event:
    body = KubernetesEvent(uid=uid, resource_version=str(revision))
    return Event(id=str(revision), time="", origin="prod", agent="1", body=body)


class RepeatsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0
        self.clock, selection._now = selection._now, lambda: self.now
        self.repeats = Repeats(SECONDS)
        self.revision = 0
        self.waiting: dict[str, tuple[int, Event]] = {}
        """By uid: the oldest revision that waits, and the event to be told."""
        self.told_at: dict[str, float] = {}

    def teardown(self) -> None:
        told = self.repeats.due(all_of_them=True)
        selection._now = self.clock
        assert {e.id for e in told} == {event.id for _, event in self.waiting.values()}
        assert self.repeats.floor is None

    @rule(uid=UIDS)
    def admit(self, uid: str) -> None:
        self.revision += 1
        event = an_event(uid, self.revision)
        if self.repeats.admit(event, self.revision):
            self.note(uid)
        else:
            oldest, _ = self.waiting.get(uid, (self.revision, event))
            self.waiting[uid] = oldest, event

    def note(self, uid: str) -> None:
        assert self.now - self.told_at.get(uid, -SECONDS) >= SECONDS
        assert uid not in self.waiting, "told, and an older one waits"
        self.told_at[uid] = self.now

    @rule(uid=UIDS)
    def tell(self, uid: str) -> None:
        """As a list does, which shows the newest of everything."""
        self.revision += 1
        self.repeats.tell(an_event(uid, self.revision))
        self.waiting.pop(uid, None)
        self.told_at[uid] = self.now

    @rule(seconds=st.sampled_from([0.5, 4.0, SECONDS]))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def take_what_is_due(self) -> None:
        for event in self.repeats.due():
            assert isinstance(event.body, KubernetesEvent)
            _, last = self.waiting.pop(event.body.uid)
            assert event == last
            self.note(event.body.uid)
        for uid in self.waiting:
            assert self.now - self.told_at[uid] < SECONDS, "over, and not told"
        assert self.repeats.seconds_to_next != 0

    @invariant()
    def the_floor_is_the_oldest_that_waits(self) -> None:
        assert self.repeats.floor == min((at for at, _ in self.waiting.values()), default=None)


TestRepeats = RepeatsMachine.TestCase
TestRepeats.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
