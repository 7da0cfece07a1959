"""Dead letters: events that the receiver, or this forwarder, will never be able to take.

Each is stored in the stream DEAD, acknowledged there, before it is acknowledged in the stream of
events; so a refused event is in one of the two at every moment.
"""

from __future__ import annotations

import asyncio
import logging
import time

from sematext_agent.shared.bus import Bus, BusError, Message
from sematext_agent.shared.events import format_rfc3339
from sematext_agent.shared.logs import escape
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    EVENTS_STREAM,
    clean_token,
    dead_subject,
)

log = logging.getLogger(__name__)

_REASON_CHARACTERS_MAX = 500
_ID_CHARACTERS_MAX = 200
_SUBJECT_CHARACTERS_MAX = 1000
"""The broker closes the connection on a longer line (4,096 bytes), and each start would end so."""
_EXCERPT_BYTES = 64


async def bury(bus: Bus, message: Message, status: int, reason: str) -> None:
    """Stores `message` as a dead letter. Returns once it is safe, however long that takes."""
    headers = {
        DEAD_REASON_HEADER: _ascii(reason)[:_REASON_CHARACTERS_MAX],
        DEAD_STATUS_HEADER: str(status),
        DEAD_SEQUENCE_HEADER: str(message.sequence),
        DEAD_TIME_HEADER: format_rfc3339(time.time_ns()),
    }
    # Its own id, or one that is the same at every delivery: a second copy is not stored.
    message_id = _ascii(message.id)
    if not 0 < len(message_id) <= _ID_CHARACTERS_MAX:
        message_id = f"{EVENTS_STREAM}:{message.sequence}"
    subject = dead_subject(_clean(message.subject))
    backoff = Backoff(0.2, 10)
    while True:
        try:
            await bus.publish(subject, message.data, message_id, headers)
            return
        except BusError as error:
            log.debug("a dead letter is not safe yet: %s", error)
            await asyncio.sleep(backoff.draw_delay_seconds())


def excerpt(data: bytes) -> str:
    """The beginning of a payload that cannot be read, in hexadecimal digits."""
    return data[:_EXCERPT_BYTES].hex(" ") + (" …" if len(data) > _EXCERPT_BYTES else "")


def _ascii(text: str) -> str:
    """`text` as a header may carry it."""
    return escape(text).encode("ascii", "backslashreplace").decode()


def _clean(subject: str) -> str:
    """A subject that anybody may have made up, in tokens that can be published on."""
    return ".".join(map(clean_token, subject.split(".")))[:_SUBJECT_CHARACTERS_MAX].rstrip(".")
