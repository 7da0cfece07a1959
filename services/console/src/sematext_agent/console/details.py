"""The details of one event or dead letter, and the list of dead letters, read on request."""

from __future__ import annotations

import base64
from contextlib import aclosing
from typing import Any

import msgspec

from sematext_agent.console.rows import make_row
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
"""Time in which the forwarder may answer with the document of an event."""
DEAD_LETTERS_MAX = 50
"""Dead letters in one list."""
_BYTES_SHOWN_MAX = 2000


async def read_event(bus: Bus, number: int) -> dict[str, Any] | None:
    """Return the event of that number with its document for Sematext; None if it is deleted.

    Raises:
        BusError: the broker went away, or did not answer.
    """
    answer = await find_info(bus, f"STREAM.MSG.GET.{EVENTS_STREAM}", {"seq": number})
    if answer is None:
        return None
    message = answer["message"]
    data = base64.b64decode(message.get("data", ""))
    row = make_row(message["subject"], data, number, parse_rfc3339(message["time"]))
    return {"subject": message["subject"], "row": row} | await _read_contents(bus, data)


async def read_dead_letter(bus: Bus, number: int) -> dict[str, Any] | None:
    """Return the dead letter of that number with its document; None if it is deleted.

    Raises:
        BusError: the broker went away, or did not answer.
    """
    message = await dead_letters.find_dead_letter(bus, number)
    if message is None:
        return None
    subject = dead_letters.original_subject_of(message)
    return (
        _dead_letter_row(message) | {"subject": subject} | await _read_contents(bus, message.data)
    )


async def _read_contents(bus: Bus, data: bytes) -> dict[str, Any]:
    """Return the event in a message, and its document as the text that is sent."""
    try:
        decode(data)
    except msgspec.DecodeError as error:
        text = data[:_BYTES_SHOWN_MAX].decode(errors="replace")
        return {"event": None, "document": "", "text": text, "problem": f"no event: {error}"}
    document = await bus.request(DOCUMENT_SUBJECT, data, DOCUMENT_SECONDS)
    problem = (
        "" if document else "The forwarder does not answer, and only it can make the document."
    )
    return {"event": msgspec.Raw(data), "document": (document or b"").decode(), "problem": problem}


async def list_dead_letters(bus: Bus, before: int) -> dict[str, Any]:
    """Return the newest dead letters, newest first, of those before `before` (0: of all).

    `older` is the value of `before` for the next list, 0 if there are no older ones.

    Raises:
        BusError: the broker went away, or did not answer.
    """
    stream = await find_info(bus, f"STREAM.INFO.{DEAD_STREAM}")
    if stream is None:
        return {"letters": [], "count": 0, "older": 0}
    state = stream["state"]
    end = min(before or state["last_seq"] + 1, state["last_seq"] + 1)
    first = max(1, state["first_seq"], end - DEAD_LETTERS_MAX)
    rows = []
    async with aclosing(dead_letters.read_dead_letters(bus, first)) as messages:
        async for message in messages:
            if message.sequence >= end:
                break
            rows.append(_dead_letter_row(message))
    older = first if state["messages"] and first > state["first_seq"] else 0
    return {"letters": rows[::-1], "count": state["messages"], "older": older}


def _dead_letter_row(message: Message) -> dict[str, Any]:
    subject = dead_letters.original_subject_of(message)
    headers = message.headers
    return {
        "number": message.sequence,
        "row": make_row(subject, message.data, message.sequence, message.time_ns),
        "status": headers.get(DEAD_STATUS_HEADER, ""),
        "reason": headers.get(DEAD_REASON_HEADER, ""),
        "dead_lettered": headers.get(DEAD_TIME_HEADER, ""),
    }
