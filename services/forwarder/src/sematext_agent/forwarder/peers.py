"""The other forwarders on the same consumer, which are asked about possible duplicates.

JetStream may redeliver an event to another forwarder than the one that delivered it: the
acknowledgement was lost with a server, or the consumer's new leader never had it. A forwarder that
was killed cannot answer, so the events that it was sending are sent again.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Iterable

import msgspec

from sematext_agent.shared.bus import Bus, Msg
from sematext_agent.shared.subjects import PEERS_SUBJECT

log = logging.getLogger(__name__)

ANSWER_SECONDS_MAX = 1.0
"""A peer that does not answer within this counts as stopped and is not waited for again."""
RECONNECT_SECONDS = 3.0
"""Time after our own reconnect for the peers, which try every half second, to be back as well."""
_ATTEMPTS = 4
"""Number of times that a question is sent within `ANSWER_SECONDS_MAX`: the broker keeps none for a
peer that has not subscribed again yet."""


class PeerQuestion(msgspec.Struct, frozen=True):
    """A question about the events with these ids."""

    asker: str
    """The inbox of the forwarder that asks."""
    ids: tuple[str, ...] = ()


class PeerAnswer(msgspec.Struct, frozen=True):
    """The events that one forwarder, or all of them, have delivered or have in flight."""

    answerer: str = ""
    """The inbox of the forwarder that answers."""
    delivered: frozenset[str] = msgspec.field(default=frozenset(), name="shipped")
    in_flight: frozenset[str] = msgspec.field(default=frozenset(), name="held")


AnswerPeer = Callable[[Iterable[str], bool], PeerAnswer]
"""From the ids of a question, and whether the asker gives way, to the answer."""

_encoder = msgspec.json.Encoder(order="deterministic")  # sets have no order of their own
_questions = msgspec.json.Decoder(PeerQuestion)
_answers = msgspec.json.Decoder(PeerAnswer)


class Peers:
    """The other forwarders: `discover` them first, then `ask` them."""

    def __init__(self, bus: Bus, domain: str, answer: AnswerPeer) -> None:
        """Answer the questions of the forwarders in `domain` with `answer`."""
        self._bus = bus
        self._answer = answer
        self._subject = f"{PEERS_SUBJECT}.{domain or 'hub'}"
        self._inbox = bus.new_inbox()
        self._inboxes: set[str] = set()
        """The inboxes of the others, which are their names."""
        self._answers: dict[str, PeerAnswer] = {}
        self._answered = asyncio.Event()

    async def discover(self) -> None:
        """Find the other forwarders, and answer their questions from now on."""
        await self._bus.subscribe(self._inbox, self._on_answer)
        await self._bus.subscribe(self._subject, self._on_question)
        await self._send_question(())
        await asyncio.sleep(ANSWER_SECONDS_MAX)

    async def ask(self, ids: Iterable[str]) -> PeerAnswer:
        """Return what all others together have delivered and have in flight of these events."""
        if not self._inboxes:
            return PeerAnswer()
        ids = tuple(ids)
        clock = asyncio.get_running_loop().time
        asked_at = clock()
        self._answers = {}
        while self._is_answer_missing:
            await self._bus.wait_until_connected()
            await self._send_question(ids)
            await self._wait_for_answers(ANSWER_SECONDS_MAX / _ATTEMPTS)
            returned_at = self._bus.reconnected_at + RECONNECT_SECONDS
            if self._bus.is_connected and clock() >= max(
                asked_at + ANSWER_SECONDS_MAX, returned_at
            ):
                self._inboxes &= self._answers.keys()
        answers = self._answers.values()
        return PeerAnswer(
            delivered=frozenset().union(*(answer.delivered for answer in answers)),
            in_flight=frozenset().union(*(answer.in_flight for answer in answers)),
        )

    @property
    def _is_answer_missing(self) -> bool:
        return not self._inboxes <= self._answers.keys()

    async def _wait_for_answers(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                while self._is_answer_missing:
                    self._answered.clear()
                    await self._answered.wait()

    async def _send_question(self, ids: tuple[str, ...]) -> None:
        question = _encoder.encode(PeerQuestion(self._inbox, ids))
        await self._bus.send(self._subject, question, self._inbox)

    async def _on_question(self, message: Msg) -> None:
        try:
            question = _questions.decode(message.data)
        except msgspec.DecodeError as error:
            log.debug("skipped a question on %s: %s", self._subject, error)
            return
        if question.asker == self._inbox:
            return
        self._inboxes.add(question.asker)
        # Of two forwarders that ask each other about the same event, one has to give way.
        answer = self._answer(question.ids, self._inbox < question.asker)
        answer = msgspec.structs.replace(answer, answerer=self._inbox)
        await self._bus.send(question.asker, _encoder.encode(answer))

    async def _on_answer(self, message: Msg) -> None:
        try:
            answer = _answers.decode(message.data)
        except msgspec.DecodeError as error:
            log.debug("skipped an answer of a peer: %s", error)
            return
        self._inboxes.add(answer.answerer)
        self._answers[answer.answerer] = answer
        self._answered.set()
