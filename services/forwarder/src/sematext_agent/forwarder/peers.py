"""What the other forwarders on the same consumer have shipped, or have in hand.

The stream may deliver an event again to another forwarder than the one that shipped it: the word
of it was lost with a server, or the server that leads the consumer now never had it. A copy that
may be one is therefore asked about before it is sent. A forwarder that was killed cannot answer;
what it had in hand is sent again, and that is all that ever is.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable

import msgspec

from sematext_agent.shared.bus import Bus, Msg
from sematext_agent.shared.subjects import PEERS_SUBJECT

log = logging.getLogger(__name__)

ANSWER_SECONDS_MAX = 1.0
"""Who is asked and does not answer within this is gone, and is not waited for again."""


class _Question(msgspec.Struct, frozen=True):
    asker: str
    ids: tuple[str, ...] = ()


class Known(msgspec.Struct, frozen=True):
    """What one forwarder, or all of them, know of the ids they were asked about."""

    answerer: str = ""
    shipped: frozenset[str] = frozenset()
    held: frozenset[str] = frozenset()
    """Neither shipped nor given up yet."""


_questions = msgspec.json.Decoder(_Question)
_answers = msgspec.json.Decoder(Known)


class Peers:
    """`meet` the others first; then `ask` them, while they are told what this forwarder knows."""

    def __init__(self, bus: Bus, domain: str, know: Callable[[Iterable[str], bool], Known]) -> None:
        self._bus = bus
        self._know = know
        self._subject = f"{PEERS_SUBJECT}.{domain or 'hub'}"
        self._inbox = bus.new_inbox()
        self._names: set[str] = set()
        """The other forwarders, by their inboxes."""
        self._answered: dict[str, Known] = {}
        self._stirred = asyncio.Event()

    async def meet(self) -> None:
        """Finds out who else is there, and answers their questions from now on."""
        await self._bus.subscribe(self._inbox, self._on_answer)
        await self._bus.subscribe(self._subject, self._on_question)
        await self._put(())
        await asyncio.sleep(ANSWER_SECONDS_MAX)

    async def ask(self, ids: Iterable[str]) -> Known:
        """What the others know of the events with these ids, once all of them have answered."""
        if not self._names:
            return Known()
        await self._put(tuple(ids))
        try:
            async with asyncio.timeout(ANSWER_SECONDS_MAX):
                while not self._names <= self._answered.keys():
                    self._stirred.clear()
                    await self._stirred.wait()
        except TimeoutError:
            self._names &= self._answered.keys()
        known = self._answered.values()
        return Known(
            shipped=frozenset().union(*(one.shipped for one in known)),
            held=frozenset().union(*(one.held for one in known)),
        )

    async def _put(self, ids: tuple[str, ...]) -> None:
        self._answered = {}
        question = msgspec.json.encode(_Question(self._inbox, ids))
        await self._bus.send(self._subject, question, self._inbox)

    async def _on_question(self, message: Msg) -> None:
        try:
            question = _questions.decode(message.data)
        except msgspec.DecodeError as error:
            log.debug("a question that is none: %s", error)
            return
        if question.asker == self._inbox:
            return
        self._names.add(question.asker)
        # Of two that ask each other about the same event, one has to give way.
        known = self._know(question.ids, self._inbox < question.asker)
        known = msgspec.structs.replace(known, answerer=self._inbox)
        await self._bus.send(question.asker, msgspec.json.encode(known))

    async def _on_answer(self, message: Msg) -> None:
        try:
            known = _answers.decode(message.data)
        except msgspec.DecodeError as error:
            log.debug("an answer that is none: %s", error)
            return
        self._names.add(known.answerer)
        self._answered[known.answerer] = known
        self._stirred.set()
