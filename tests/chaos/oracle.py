"""The oracle: a comparison of the events at the source with the documents of the receiver.

The source is a log, so no event may be lost: the receiver has stored each with the exact bytes of
its document, or it is a dead letter. Nothing else is stored. A copy is excused where the answer to
a stored document did not arrive, as the forwarder cannot know then.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections import Counter, deque

import nats.errors
from chaos.numbered import event_of
from chaos.stage import Stage

from sematext_agent.forwarder.documents import build_document, encode
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.collector import _encode_within_bounds
from sematext_agent.shared.events import Event

_POLL_SECONDS = 0.1


class Oracle:
    """The events of a stage compared with the documents of its receiver."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self._lines_read = 0
        self._undelivered: deque[str] = deque()
        self.dead: set[str] = set()
        """The ids of the dead letters that were read so far."""

    def _is_delivered(self, event: str) -> bool:
        return event in self._stage.receiver.stored or event in self.dead

    def _read_source(self) -> None:
        lines = self._stage.source.lines
        self._undelivered.extend(_event(line).id for line in lines[self._lines_read :])
        self._lines_read = len(lines)

    def count_undelivered(self) -> int:
        """Return the number of events of the source that are not delivered so far."""
        self._read_source()
        self._undelivered = deque(e for e in self._undelivered if not self._is_delivered(e))
        return len(self._undelivered)

    async def wait_for_delivery(self, seconds: float) -> bool:
        """Wait until all events until now are delivered; return whether they were in time."""
        self._read_source()
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            # In the order of the source, so that each event is looked up once.
            while self._undelivered and self._is_delivered(self._undelivered[0]):
                self._undelivered.popleft()
            if not self._undelivered:
                return True
            await asyncio.sleep(_POLL_SECONDS)
            with contextlib.suppress(nats.errors.TimeoutError, BusError):  # the next poll repeats
                await self._read_dead_letters()
        return False

    async def wait_for_acknowledgements(self, seconds: float) -> bool:
        """Wait until every message is acknowledged; return whether they were in time."""
        deadline = asyncio.get_running_loop().time() + seconds
        while asyncio.get_running_loop().time() < deadline:
            consumer = await self._stage.api("CONSUMER.INFO.EVENTS.forwarder")
            if not consumer["num_pending"] + consumer["num_ack_pending"]:
                return True
            await asyncio.sleep(_POLL_SECONDS)
        return False

    async def _read_dead_letters(self) -> None:
        last = (await self._stage.api("STREAM.INFO.DEAD"))["state"]["last_seq"]
        for sequence in range(len(self.dead) + 1, last + 1):
            letter = await self._stage.connection.manager.get_msg("DEAD", sequence)
            self.dead.add(letter.headers["Nats-Msg-Id"])

    def copies(self) -> tuple[int, int]:
        """Return the number of documents stored again: of all, and of those without an excuse."""
        receiver = self._stage.receiver
        copies = Counter({event: times - 1 for event, times in receiver.stored.items()})
        copies += Counter(self.dead & receiver.stored.keys())
        return copies.total(), (copies - receiver.unanswered).total()

    def count_false_documents(self) -> int:
        """Return the number of stored documents that differ from those of the events.

        A document depends on its event alone: there are no facts of hosts here.
        """
        expected = {}
        for line in self._stage.source.lines:
            event = _event(line)
            expected[event.id] = json.loads(encode(build_document(event, None)))
        stored = self._stage.receiver.documents
        return sum(document != expected.get(document["event.id"]) for document in stored)


def _event(line: bytes) -> Event:
    """Return the event that the runner publishes for a line: a gap for one that is too large."""
    event, _ = _encode_within_bounds(event_of(line))
    return event
