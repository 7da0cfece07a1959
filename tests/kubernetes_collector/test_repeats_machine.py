"""The interval of repeats on a clock of the test's own, beside a model.

An event is published at most once in the interval, its last repeat is always published in the end,
and the stored cursor stays before every repeat that is held back.
"""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from kubernetes_running import ManualClock

from sematext_agent.kubernetes_collector.repeats import RepeatLimiter
from sematext_agent.shared.events import Event, KubernetesEvent

SECONDS = 10.0
UIDS = st.sampled_from(["a", "b", "c"])


def create_event(uid: str, revision: int) -> Event:
    body = KubernetesEvent(uid=uid, resource_version=str(revision))
    return Event(id=str(revision), time="", origin="prod", agent="1", body=body)


class RepeatsMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.clock = ManualClock()
        self.limiter = RepeatLimiter(SECONDS, self.clock)
        self.revision = 0
        self.held: dict[str, tuple[int, Event]] = {}
        """By uid: the oldest revision that is held, and the event to be published."""
        self.published_at: dict[str, float] = {}

    def teardown(self) -> None:
        released = self.limiter.release(everything=True)
        assert {e.id for e in released} == {event.id for _, event in self.held.values()}
        assert self.limiter.oldest_held_revision is None

    @rule(uid=UIDS)
    def admit(self, uid: str) -> None:
        self.revision += 1
        event = create_event(uid, self.revision)
        if self.limiter.admit(event, self.revision):
            self.record(uid)
        else:
            oldest, _ = self.held.get(uid, (self.revision, event))
            self.held[uid] = oldest, event

    def record(self, uid: str) -> None:
        assert self.clock.seconds - self.published_at.get(uid, -SECONDS) >= SECONDS
        assert uid not in self.held, "published, and an older one is held"
        self.published_at[uid] = self.clock.seconds

    @rule(uid=UIDS)
    def publish_from_list(self, uid: str) -> None:
        """Publish the newest revision, as a list shows it."""
        self.revision += 1
        self.limiter.record_published(create_event(uid, self.revision))
        self.held.pop(uid, None)
        self.published_at[uid] = self.clock.seconds

    @rule(seconds=st.sampled_from([0.5, 4.0, SECONDS]))
    def wait(self, seconds: float) -> None:
        self.clock.seconds += seconds

    @rule()
    def release(self) -> None:
        for event in self.limiter.release():
            assert isinstance(event.body, KubernetesEvent)
            _, last = self.held.pop(event.body.uid)
            assert event == last
            self.record(event.body.uid)
        for uid in self.held:
            assert self.clock.seconds - self.published_at[uid] < SECONDS, "ended, not published"
        assert self.limiter.seconds_to_next() != 0

    @invariant()
    def the_oldest_held_revision_is_that_of_the_model(self) -> None:
        oldest = min((revision for revision, _ in self.held.values()), default=None)
        assert self.limiter.oldest_held_revision == oldest


TestRepeats = RepeatsMachine.TestCase
TestRepeats.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
