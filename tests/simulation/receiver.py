"""The simulated receiver of events, and the transport of a forwarder to it."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import msgspec
from simulation.world import ProcessLoop, World

from sematext_agent.forwarder.destination import Answer, OnAnswer

REQUEST_SECONDS_MAX = 30.0
NORMAL_SECONDS = (0.005, 0.05)


class _Document(msgspec.Struct):
    id: str = msgspec.field(name="event.id")


_decoder = msgspec.json.Decoder(_Document)


class Mode(NamedTuple):
    """A behaviour of the receiver."""

    name: str = "up"
    """`up`, `down`, `slow`, `throttle` (429), `error` (503), `hold` (401)
    or `mute` (stores, never answers)."""
    value: float = 0.0
    """Seconds of an answer for `slow`, events a second for `throttle`."""


class Receiver:
    """Stores every document that it takes; `on_store` decides whether a duplicate is excused."""

    def __init__(self, world: World, refused_every: int, rate: float) -> None:
        self.world = world
        self.modes: list[Mode] = [Mode("throttle", rate) if rate else Mode()]
        """The last one counts."""
        self.posts = 0
        self.on_store: Callable[[str, ProcessLoop], None] = lambda event_id, loop: None
        """Called with the id of each stored event and the process that sent it."""
        self.on_answered: Callable[[str, ProcessLoop], None] = lambda event_id, loop: None
        """Called when the answer to a stored event has reached its sender."""
        self._random = world.stream("receiver")
        self._refused_every = refused_every
        self._tokens = 0.0
        self._tokens_at = 0.0

    def post(self, document: bytes, loop: ProcessLoop, on_answer: OnAnswer) -> None:
        """Take a request that has arrived."""
        self.posts += 1
        mode = self.modes[-1]
        event_id = _decoder.decode(document).id
        seconds = self._random.uniform(*NORMAL_SECONDS)
        answer = Answer(200)
        match mode.name:
            case "down":
                answer = Answer(0, problem="connection refused")
            case "error":
                answer = Answer(503, body="out of order")
            case "hold":
                answer = Answer(401, body="unknown token")
            case "throttle" if not self._takes(mode.value):
                answer = Answer(429, retry_after=5.0)
            case "slow":
                seconds = mode.value
            case "mute":
                seconds = REQUEST_SECONDS_MAX
        if answer.status == 200 and self._refuses(event_id):
            answer = Answer(400, body="bad document")
        is_stored = answer.status == 200
        if is_stored:
            self.on_store(event_id, loop)
        if mode.name == "mute":
            answer, is_stored = Answer(0, problem="timed out", timed_out=True), False
        self.world.call_later(
            seconds, self._answer, loop, on_answer, answer, event_id if is_stored else ""
        )

    def _answer(
        self, loop: ProcessLoop, on_answer: OnAnswer, answer: Answer, event_id: str
    ) -> None:
        if loop.is_dead:
            return
        if event_id:
            loop.call_soon(self.on_answered, event_id, loop)
        loop.call_soon(on_answer, answer)

    def _refuses(self, event_id: str) -> bool:
        number = event_id.rpartition("-")[2]
        return (
            bool(self._refused_every)
            and number.isdecimal()
            and not (int(number) % self._refused_every)
        )

    def _takes(self, rate: float) -> bool:
        now = self.world.now
        self._tokens = min(rate, self._tokens + (now - self._tokens_at) * rate)
        self._tokens_at = now
        if self._tokens < 1:
            return False
        self._tokens -= 1
        return True


class SimTransport:
    """The requests of one forwarder."""

    def __init__(self, receiver: Receiver, loop: ProcessLoop) -> None:
        self._receiver = receiver
        self._loop = loop
        self._is_closed = False

    def post(self, document: bytes, on_answer: OnAnswer) -> None:
        """Send `document` and call `on_answer` once, later."""

        def answer_unless_closed(answer: Answer) -> None:
            if not self._is_closed:
                on_answer(answer)

        world, receiver = self._receiver.world, self._receiver
        world.call_later(0.001, receiver.post, document, self._loop, answer_unless_closed)

    def close(self) -> None:
        """End every request, whose outcome is then unknown."""
        self._is_closed = True
