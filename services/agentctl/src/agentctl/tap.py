"""`agentctl tap`: recent events and then live ones, in words or as they are stored."""

from __future__ import annotations

import argparse
import datetime
import re
import sys
from contextlib import aclosing

import msgspec

from agentctl.reaching import broker
from agentctl.state import CommandError
from shared import words
from shared.bus import Message
from shared.events import decode
from shared.logs import escape
from shared.streams import follow
from shared.subjects import DEAD_STREAM, EVENTS_STREAM, token

_subject = re.compile(r"(events|dead)(\.[^\s.>]+)*(\.>)?")


async def show(options: argparse.Namespace) -> int:
    """Prints events until it is interrupted."""
    subject = subject_for(options)
    stream = DEAD_STREAM if subject.partition(".")[0] == "dead" else EVENTS_STREAM
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=options.since)
    wanted = options.grep.lower()
    async with broker(options) as connection:
        connection.on_connection = _say_connection
        async with aclosing(follow(connection, stream, subject, since)) as messages:
            async for message in messages:
                text = raw(message) if options.json else in_words(message)
                if wanted in text.lower():
                    print(text, flush=True)
    return 0


def _say_connection(up: bool) -> None:
    print("agentctl: the broker is " + ("back" if up else "away"), file=sys.stderr, flush=True)


def subject_for(options: argparse.Namespace) -> str:
    """The subject to listen on: the one that was named, or that of a source and an origin.

    Raises:
        CommandError: both were named, or nothing can ever come on what was named.
    """
    source, origin = options.source, options.origin
    if options.subject:
        if source or origin:
            raise CommandError("a SUBJECT says it all; leave --source and --origin out")
        if not _subject.fullmatch(options.subject):
            raise CommandError(
                f"{options.subject}: no event has such a subject; write it like 'events.docker.>'"
            )
        return str(options.subject)
    if not source and not origin:
        return "events.>"
    return ".".join(("events", source or "*", token(origin) if origin else "*", ">"))


def in_words(message: Message) -> str:
    """One line on a message; also on one that is no event."""
    try:
        return escape(words.line(decode(message.data)))
    except msgspec.DecodeError as error:
        return escape(f"{message.subject}: {len(message.data)} bytes that are no event ({error})")


def raw(message: Message) -> str:
    """The message as it is stored, on one line."""
    text = message.data.decode(errors="replace")
    return text if text.isprintable() else escape(text)
