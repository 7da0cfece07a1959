"""The seam to a destination: encode an event, send it, judge the answer.

The rest of the forwarder knows no destination by name, so another one is one more module beside
`sematext.py`.
"""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import Protocol

import msgspec

from sematext_agent.shared.events import Event, HostFacts


class Answer(msgspec.Struct, frozen=True):
    """The answer to one request, or the reason why none came."""

    status: int
    """The HTTP status, or 0 where no complete head of an answer came."""
    body: str = ""
    """The beginning of the answer's body."""
    retry_after: float = 0.0
    """Seconds that the answer's `Retry-After` asks for, from either of its forms."""
    problem: str = ""
    """The reason for a person, where no answer came."""
    timed_out: bool = False


OnAnswer = Callable[[Answer], None]


class Outcome(enum.Enum):
    """The meaning of an answer for the event and for the whole flow."""

    DELIVERED = "delivered"
    """The destination has the event."""
    RETRY = "retry"
    """The same document may be taken later."""
    REFUSED = "refused"
    """This document will never be taken."""
    HOLD = "hold"
    """No document is taken until somebody corrects the settings or the destination."""
    PRINTED = "printed"
    """A dry run printed the document instead of sending it."""


class Judgement(msgspec.Struct, frozen=True):
    """An answer with its meaning."""

    outcome: Outcome
    status: int = 0
    detail: str = ""
    """The answer for a person, in one line, with the remedy where one is known."""
    retry_after: float = 0.0
    """Seconds for which the destination wants to receive nothing."""
    is_overloaded: bool = False
    """The answer, or its absence, means that the destination gets too much at once."""


class Destination(Protocol):
    """A place that events are delivered to."""

    name: str
    """Its name or address, safe to show."""
    initial_status: str
    """Its description in the service's health before the first answer."""

    def encode(self, event: Event, facts: HostFacts | None) -> bytes:
        """Return the document for `event`, with the facts of its host where they are known.

        Raises:
            ValueError: the event has no form at this destination.
        """

    def send(self, document: bytes, on_answer: OnAnswer) -> None:
        """Send `document` and call `on_answer` once, later or at once.

        A callback rather than a coroutine, because a task for each of ten thousand events a second
        costs too much.
        """

    def judge(self, answer: Answer) -> Judgement:
        """Return the meaning of `answer`."""

    def close(self) -> None:
        """End every request, whose outcome is then unknown, and close every connection."""
