"""Decoder: the first stage of the path, from a line of the engine's stream to a message."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Annotated

import msgspec

from sematext_agent.docker_collector.buffer import EventLines
from sematext_agent.docker_collector.deduplicator import MessageDeduplicator
from sematext_agent.docker_collector.masking import mask
from sematext_agent.docker_collector.message import EngineMessage
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import NS_PER_SECOND, Event, Nanoseconds

log = logging.getLogger(__name__)


class _Actor(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


_NO_ACTOR = _Actor()


class _EventLine(msgspec.Struct, rename={"type": "Type", "action": "Action", "actor": "Actor"}):
    """One line of `GET /events`, without the `status`, `id` and `from` that API 1.52 removed."""

    type: str
    action: str
    actor: _Actor | None = None
    scope: str = "local"
    time: Annotated[int, msgspec.Meta(ge=0, le=2**63 // NS_PER_SECOND)] = 0
    """Seconds since the epoch."""
    timeNano: Nanoseconds = 0  # noqa: N815 - as the engine spells it
    """Nanoseconds since the epoch: the whole time, not the fraction."""


_decoder = msgspec.json.Decoder(_EventLine)


def decode(line: bytes) -> EngineMessage:
    """Return the message in a line of the stream.

    Raises:
        Exception: one of DECODE_ERRORS, where the line is not JSON or not a message.
    """
    event_line = _decoder.decode(line)
    action = event_line.action
    if action.startswith("exec_"):
        action = mask(action)
    actor = event_line.actor or _NO_ACTOR
    return EngineMessage(
        event_line.type,
        action,
        action.partition(":")[0],
        actor.id,
        actor.attributes or {},
        event_line.scope,
        event_line.timeNano or event_line.time * NS_PER_SECOND,
    )


class LineDecoder:
    """The stage that decodes lines and hands their messages on to the deduplicator."""

    def __init__(
        self, deduplicator: MessageDeduplicator, count_filtered: Callable[[str], None]
    ) -> None:
        self._deduplicator = deduplicator
        self._count_filtered = count_filtered

    def process(self, batch: EventLines) -> AsyncIterator[Event | None]:
        """Yield the events of a batch, and None for a message that becomes no event."""
        lines = b"\n".join(batch.pieces).split(b"\n")
        return self._deduplicator.process(self.decode_lines(lines))

    def decode_lines(self, lines: Iterable[bytes]) -> list[EngineMessage]:
        """Return the messages in `lines`; a line that cannot be decoded is counted and skipped."""
        messages = []
        for line in lines:
            try:
                messages.append(decode(line))
            except DECODE_ERRORS as error:
                self._count_filtered("unreadable")
                log.warning("message skipped: it cannot be decoded (%s): %r", error, line[:200])
        return messages
