"""Who may post now: the pace of the whole flow towards the receiver.

Every POST enters and leaves here. Three things are decided:

- How many at once: one more after each full round of successes, a tenth less when the receiver is
  crowded (additive increase, multiplicative decrease), between 1 and `IN_FLIGHT_MAX`.
- When: a `Retry-After` holds back everything, not only the event it was said to.
- Whether at all: a wrong token, a receiver that is away or one that refuses everything closes the
  flow. Then one event at a time goes to try, with growing pauses, and the first that is delivered
  opens it again.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from sematext_agent.forwarder.transport import Answer
from sematext_agent.forwarder.verdict import Verdict, in_words, is_crowded
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff

IN_FLIGHT_MAX = 128
_IN_FLIGHT_FIRST = 16
RETRY_AFTER_SECONDS_MAX = 3600.0
FAILURES_TO_CLOSE = 5
"""So many POSTs in a row without an answer that helps, and the receiver counts as away."""
REFUSALS_TO_CLOSE = 10
"""So many refusals in a row, and the receiver is suspected rather than the events."""
_CONDITION = "receiver"


class Flow:
    """The pace of all POSTs: `enter` before each where `has_room`, `leave` with its answer after.

    `on_room` is called when there is room again after a pause.
    """

    def __init__(self, health: Health, receiver: str, on_room: Callable[[], None]) -> None:
        self._health = health
        self._receiver = receiver
        self._on_room = on_room
        self._loop = asyncio.get_running_loop()
        self._not_before = 0.0
        self._timer: asyncio.TimerHandle | None = None
        self._backoff = Backoff(1, 30)
        self._failures = 0
        self._refusals = 0
        self._shrunk_at = 0.0
        self.limit = float(_IN_FLIGHT_FIRST)
        """How many POSTs may be in flight; grows by fractions."""
        self.in_flight = 0
        self.is_open = True
        self._said_ok = False
        health.set_condition(_CONDITION, True, f"{receiver}: nothing was sent yet")

    def has_room(self) -> bool:
        """Whether one more POST may begin now."""
        if self.in_flight >= (int(self.limit) if self.is_open else 1):
            return False
        return not self._not_before or self._loop.time() >= self._not_before

    def enter(self) -> None:
        """Begins one POST."""
        self.in_flight += 1

    def leave(self, verdict: Verdict, answer: Answer, seconds: float) -> None:
        """Ends one POST, which took `seconds` and came out so."""
        self.in_flight -= 1
        match verdict:
            case Verdict.DELIVERED:
                self._on_delivered()
            case Verdict.REFUSED:
                self._on_refused(answer)
            case Verdict.RETRY:
                self._on_failed(answer, seconds)
            case Verdict.HOLD:
                self._close(f"holding, {in_words(answer)}")
        if answer.retry_after and verdict is not Verdict.REFUSED:
            pause = min(answer.retry_after, RETRY_AFTER_SECONDS_MAX)
            self._pause(pause)
            self._say(False, f"asked to wait for {pause:.0f} s, {in_words(answer)}")

    def stop(self) -> None:
        """Calls `on_room` no more."""
        if self._timer is not None:
            self._timer.cancel()

    def _on_delivered(self) -> None:
        self._failures = self._refusals = 0
        # Only a full house shows that more would be of use.
        if self.in_flight + 1 >= int(self.limit):
            self.limit = min(IN_FLIGHT_MAX, self.limit + 1 / self.limit)
        if not self.is_open:
            self.is_open = True
            self._backoff.reset()
        if not self._said_ok and not self._not_before:
            self._say(True, "takes events")

    def _on_refused(self, answer: Answer) -> None:
        # It answers, so it is not away; whether it still takes anything is another question.
        self._failures = 0
        self._refusals += 1
        if self._refusals >= REFUSALS_TO_CLOSE:
            self._close(f"refuses every event, {in_words(answer)}")

    def _on_failed(self, answer: Answer, seconds: float) -> None:
        self._failures += 1
        now = self._loop.time()
        # All that were in flight together tell of one crowding, so they shrink the flow once.
        if is_crowded(answer) and now - seconds >= self._shrunk_at:
            self.limit = max(1.0, self.limit * 0.9)
            self._shrunk_at = now
        if self._failures >= FAILURES_TO_CLOSE or not self.is_open:
            self._close(in_words(answer))

    def _close(self, words: str) -> None:
        was_open, self.is_open = self.is_open, False
        # Those in flight when it closed come back one after the other: together they are one
        # failure. After that only the one event that tries can.
        if was_open or not self.in_flight:
            self._pause(self._backoff.draw_delay_seconds())
        self._say(False, words)

    def _pause(self, seconds: float) -> None:
        """Lets nothing begin for so long; a longer pause that is under way stays."""
        until = self._loop.time() + seconds
        if until > self._not_before:
            self._not_before = until
            if self._timer is not None:
                self._timer.cancel()
            self._timer = self._loop.call_at(until, self._end_pause)

    def _end_pause(self) -> None:
        self._timer = None
        self._not_before = 0.0
        self._on_room()

    def _say(self, ok: bool, words: str) -> None:
        self._said_ok = ok
        self._health.set_condition(_CONDITION, ok, f"{self._receiver} {words}")
