"""One event opened, and the dead letters: read from the streams when somebody asks for them."""

from __future__ import annotations

import base64
from contextlib import aclosing
from typing import Any

import msgspec

from sematext_agent.console.rows import row
from sematext_agent.shared import dead_letters
from sematext_agent.shared.bus import Bus, Message
from sematext_agent.shared.events import decode, parse_rfc3339
from sematext_agent.shared.stream_reader import find_info
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_STREAM,
    DEAD_TIME_HEADER,
    DOCUMENT_SUBJECT,
    EVENTS_STREAM,
)

DOCUMENT_SECONDS = 2.0
"""How long the forwarder may take to say what it makes of an event."""
LETTERS_MAX = 50
"""Dead letters that are read at once."""
_BYTES_SHOWN_MAX = 2000


async def open_event(bus: Bus, number: int) -> dict[str, Any] | None:
    """The event of that number with the document that is shipped of it; None where it is gone.

    Raises BusError.
    """
    answer = await find_info(bus, f"STREAM.MSG.GET.{EVENTS_STREAM}", {"seq": number})
    if answer is None:
        return None
    message = answer["message"]
    data = base64.b64decode(message.get("data", ""))
    line = row(message["subject"], data, number, parse_rfc3339(message["time"]))
    return {"subject": message["subject"], "row": line} | await _contents(bus, data)


async def open_letter(bus: Bus, number: int) -> dict[str, Any] | None:
    """The dead letter of that number, as `open_event`. Raises BusError."""
    letter = await dead_letters.find_dead_letter(bus, number)
    if letter is None:
        return None
    subject = dead_letters.original_subject_of(letter)
    return _letter(letter) | {"subject": subject} | await _contents(bus, letter.data)


async def _contents(bus: Bus, data: bytes) -> dict[str, Any]:
    """The event in a message, and its document, as a text because it is shown to the letter."""
    try:
        decode(data)
    except msgspec.DecodeError as error:
        shown = data[:_BYTES_SHOWN_MAX].decode(errors="replace")
        return {"event": None, "document": "", "text": shown, "problem": f"no event: {error}"}
    document = await bus.request(DOCUMENT_SUBJECT, data, DOCUMENT_SECONDS)
    problem = "" if document else "The forwarder does not answer, and only it knows the document."
    return {"event": msgspec.Raw(data), "document": (document or b"").decode(), "problem": problem}


async def list_letters(bus: Bus, before: int) -> dict[str, Any]:
    """The newest dead letters, newest first, of those before the number `before` (0: of all).

    `older` is what to pass as `before` for the next ones, 0 where there are none. Raises BusError.
    """
    stream = await find_info(bus, f"STREAM.INFO.{DEAD_STREAM}")
    if stream is None:
        return {"letters": [], "count": 0, "older": 0}
    state = stream["state"]
    end = min(before or state["last_seq"] + 1, state["last_seq"] + 1)
    first = max(1, state["first_seq"], end - LETTERS_MAX)
    found = []
    async with aclosing(dead_letters.read_dead_letters(bus, first)) as letters:
        async for letter in letters:
            if letter.sequence >= end:
                break
            found.append(_letter(letter))
    older = first if state["messages"] and first > state["first_seq"] else 0
    return {"letters": found[::-1], "count": state["messages"], "older": older}


def _letter(letter: Message) -> dict[str, Any]:
    subject = dead_letters.original_subject_of(letter)
    headers = letter.headers
    return {
        "number": letter.sequence,
        "row": row(subject, letter.data, letter.sequence, letter.time_ns),
        "status": headers.get(DEAD_STATUS_HEADER, ""),
        "reason": headers.get(DEAD_REASON_HEADER, ""),
        "refused": headers.get(DEAD_TIME_HEADER, ""),
    }
