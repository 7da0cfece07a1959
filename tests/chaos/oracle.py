"""What must have come of everything that happened at the source, and how far it has.

The source is a log, so nothing in it may be lost: every event was stored by the receiver, with
every byte as it must be, or is a dead letter. Nothing else was stored. A copy is excused where the
receiver stored a document and its answer did not come: the forwarder cannot know then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque

import nats.errors
from chaos.numbered import event_of
from chaos.stage import Stage

from sematext_agent.forwarder.documents import encode, enrich
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.collector import _encode_within_bounds
from sematext_agent.shared.events import Event

_LOOK_SECONDS = 0.1


class Oracle:
    """Compares what happened on a stage with what its receiver stored."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._seen = 0  # lines of the source
        self._owed: deque[str] = deque()
        self.dead: set[str] = set()
        """The ids of the dead letters, as far as they have been looked up."""

    def _is_told(self, event: str) -> bool:
        return event in self._stage.receiver.stored or event in self.dead

    def _note_what_happened(self) -> None:
        lines = self._stage.source.lines
        self._owed.extend(_event(line).id for line in lines[self._seen :])
        self._seen = len(lines)

    def untold(self) -> int:
        """How many events of the source have not come through so far."""
        self._note_what_happened()
        self._owed = deque(event for event in self._owed if not self._is_told(event))
        return len(self._owed)

    async def until_told(self, seconds: float) -> bool:
        """Waits until all that has happened by now has come through; whether it did in time."""
        self._note_what_happened()
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            # In the order in which it happened, so that each is looked at once.
            while self._owed and self._is_told(self._owed[0]):
                self._owed.popleft()
            if not self._owed:
                return True
            await asyncio.sleep(_LOOK_SECONDS)
            with contextlib.suppress(nats.errors.TimeoutError, BusError):  # it looks again
                await self._look_at_dead_letters()
        return False

    async def until_acknowledged(self, seconds: float) -> bool:
        """Waits until the stream waits for no acknowledgement; whether it came to that in time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            consumer = await self._stage.api("CONSUMER.INFO.EVENTS.forwarder")
            if not consumer["num_pending"] + consumer["num_ack_pending"]:
                return True
            await asyncio.sleep(0.1)
        return False

    async def _look_at_dead_letters(self) -> None:
        last = (await self._stage.api("STREAM.INFO.DEAD"))["state"]["last_seq"]
        for sequence in range(len(self.dead) + 1, last + 1):
            letter = await self._stage.connection.manager.get_msg("DEAD", sequence)
            self.dead.add(letter.headers["Nats-Msg-Id"])

    def copies(self) -> tuple[int, int]:
        """How many documents were stored more than once: all of them, and those not excused."""
        receiver = self._stage.receiver
        copies = Counter({event: times - 1 for event, times in receiver.stored.items()})
        copies += Counter(self.dead & receiver.stored.keys())
        return copies.total(), (copies - receiver.unanswered).total()

    def untrue(self) -> int:
        """How many of the stored documents are of no event that happened, or not as they must be.

        Facts of the host would be the only thing that comes to a document from elsewhere, and
        nobody tells any here.
        """
        expected = {}
        for line in self._stage.source.lines:
            event = _event(line)
            expected[event.id] = json.loads(encode(enrich(event, None)))
        stored = self._stage.receiver.documents
        return sum(document != expected.get(document["event.id"]) for document in stored)


def _event(line: bytes) -> Event:
    """What the runner of collectors makes of a line: a gap, where it is too large an event."""
    event, _ = _encode_within_bounds(event_of(line))
    return event
