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
from collections import deque

from forwarder.transport import Answer
from forwarder.verdict import Verdict, in_words, is_crowded
from shared.health import Health
from shared.retry import Backoff

IN_FLIGHT_MAX = 128
_IN_FLIGHT_FIRST = 16
RETRY_AFTER_SECONDS_MAX = 3600.0
FAILURES_TO_CLOSE = 5
"""So many POSTs in a row without an answer that helps, and the receiver counts as away."""
REFUSALS_TO_CLOSE = 10
"""So many refusals in a row, and the receiver is suspected rather than the events."""
_CONDITION = "receiver"


class Flow:
    """The pace of all POSTs. `enter` before each, `leave` with its answer after it."""

    def __init__(self, health: Health, receiver: str) -> None:
        self._health = health
        self._receiver = receiver
        self._loop = asyncio.get_running_loop()
        self._waiting: deque[asyncio.Future[None]] = deque()
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
        health.set(_CONDITION, True, f"{receiver}: nothing was sent yet")

    async def enter(self) -> None:
        """Waits until one more POST may begin. Events go in the order in which they came here."""
        if not self._waiting and self._has_room():
            self.in_flight += 1
            return
        turn: asyncio.Future[None] = self._loop.create_future()
        self._waiting.append(turn)
        self._admit()
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self.in_flight -= 1
                self._admit()
            raise

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
            self._not_before = max(self._not_before, self._loop.time() + pause)
            self._say(False, f"asked to wait for {pause:.0f} s, {in_words(answer)}")
        self._admit()

    def abandon(self) -> None:
        """Ends one POST of which nothing is known."""
        self.in_flight -= 1
        self._admit()

    def _on_delivered(self) -> None:
        self._failures = self._refusals = 0
        # Only a full house shows that more would be of use.
        if self.in_flight + 1 >= int(self.limit):
            self.limit = min(IN_FLIGHT_MAX, self.limit + 1 / self.limit)
        if not self.is_open:
            self.is_open = True
            self._backoff.reset()
        if not self._said_ok and self._not_before <= self._loop.time():
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
            pause = self._backoff.next_seconds()
            self._not_before = max(self._not_before, self._loop.time() + pause)
        self._say(False, words)

    def _say(self, ok: bool, words: str) -> None:
        self._said_ok = ok
        self._health.set(_CONDITION, ok, f"{self._receiver} {words}")

    def _has_room(self) -> bool:
        if self._loop.time() < self._not_before:
            return False
        return self.in_flight < (int(self.limit) if self.is_open else 1)

    def _admit(self) -> None:
        """Lets in whoever may enter now, and comes back when the pause is over."""
        while self._waiting and self._has_room():
            turn = self._waiting.popleft()
            if not turn.done():
                self.in_flight += 1
                turn.set_result(None)
        pause = self._not_before - self._loop.time()
        if self._waiting and pause > 0 and self._timer is None:
            self._timer = self._loop.call_later(pause, self._on_timer)

    def _on_timer(self) -> None:
        self._timer = None
        self._admit()
