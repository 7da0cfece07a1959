"""`agentctl tap`: recent events and then live ones, in words or as they are stored."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import re
import stat
import sys
from contextlib import aclosing
from fnmatch import fnmatchcase

import msgspec

from sematext_agent.agentctl.reaching import broker
from sematext_agent.agentctl.state import CommandError
from sematext_agent.agentctl.terminal import Terminal
from sematext_agent.shared import summary
from sematext_agent.shared.bus import Message
from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    NewerEventError,
    OutOfMemory,
    PackageChange,
    decode,
)
from sematext_agent.shared.logs import escape, escape_json
from sematext_agent.shared.severity import severity_of
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM, clean_token

SEVERITIES = ("info", "warning", "error")
_ORIGIN_CHARACTERS_MAX = 30
_subject = re.compile(r"(events|dead)(\.[^\s.>]+)*(\.>)?")


async def show(options: argparse.Namespace) -> int:
    """Prints events until it is interrupted."""
    subject = subject_for(options)
    stream = DEAD_STREAM if subject.partition(".")[0] == "dead" else EVENTS_STREAM
    since = datetime.datetime.now(datetime.UTC) - datetime.timedelta(seconds=options.since)
    lines = Lines(Terminal(sys.stdout))
    reading = asyncio.create_task(_until_nobody_reads(sys.stdout.fileno()))

    async def print_all() -> None:
        async with aclosing(follow_messages(connection, stream, subject, since)) as messages:
            async for message in messages:
                event = _event(message)
                if is_wanted(options, message, event):
                    print(raw(message) if options.json else lines.of(message, event), flush=True)

    async with broker(options) as connection:
        connection.on_connection = _say_connection
        printing = asyncio.create_task(print_all())
        try:
            await asyncio.wait((printing, reading), return_when=asyncio.FIRST_COMPLETED)
            if printing.done():
                printing.result()
        finally:
            printing.cancel()
            await asyncio.wait([printing])
    return 0


async def _until_nobody_reads(output: int) -> None:
    """Returns when the other end of a pipe is closed; a terminal and a file stay open.

    Without this, `agentctl tap | head -n 1` would hang until one event more is told.
    """
    closed = asyncio.Event()
    if stat.S_ISFIFO(os.fstat(output).st_mode):
        # Nothing is ever read from it: what wakes us is the error that the kernel reports on it.
        asyncio.get_running_loop().add_reader(output, closed.set)
    await closed.wait()


def is_wanted(options: argparse.Namespace, message: Message, event: Event | None) -> bool:
    """Whether the message passes the filters; what is no event passes only where there are none."""
    if event is None:
        is_filtered = options.object or options.name or options.severity
        return not is_filtered and options.grep.lower() in _no_event(message).lower()
    body = event.body
    least = options.severity or SEVERITIES[0]
    return (
        (not options.object or object_of(message).lower() == options.object.lower())
        and (not options.name or fnmatchcase(name_of(body).lower(), options.name.lower()))
        and SEVERITIES.index(severity_of(body)) >= SEVERITIES.index(least)
        and options.grep.lower()
        in (summary.format_event_line(event) + raw(message) * options.json).lower()
    )


def object_of(message: Message) -> str:
    """The kind of the object, from the subject: `container`, `Pod`, `package`."""
    tokens = message.subject.removeprefix("dead.").split(".")
    return tokens[3] if len(tokens) > 3 else ""


def name_of(body: Body) -> str:
    """What the object that the event is about is called."""
    match body:
        case DockerEvent():
            return body.attributes.get("name") or body.actor_id
        case KubernetesEvent() | PackageChange():
            return body.name
        case OutOfMemory():
            return body.process
        case AgentLifecycle():
            return "agent"
        case Gap():
            return body.source


class Lines:
    """Messages in words, in columns that are as wide as what came so far needs."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._origin_characters = 0

    def of(self, message: Message, event: Event | None) -> str:
        """One line on a message; also on one that is no event."""
        if event is None:
            return self._terminal.paint(_no_event(message), "faint")
        origin = escape(event.origin)
        characters = max(self._origin_characters, len(origin))
        self._origin_characters = min(characters, _ORIGIN_CHARACTERS_MAX)
        paint = self._terminal.paint
        source = escape(message.subject.removeprefix("dead.").split(".")[1])
        return " ".join(
            (
                paint(escape(summary.format_local_time(event.time)), "faint"),
                paint(f"{source:<10}", "source"),
                f"{origin:<{self._origin_characters}} ",
                paint(escape(summary.summarize(event.body)), severity_of(event.body)),
            )
        )


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
    return ".".join(("events", source or "*", clean_token(origin) if origin else "*", ">"))


def in_words(message: Message) -> str:
    """One line on a message; also on one that is no event."""
    event = _event(message)
    return _no_event(message) if event is None else escape(summary.format_event_line(event))


def _event(message: Message) -> Event | None:
    try:
        return decode(message.data)
    except msgspec.DecodeError:
        return None


def _no_event(message: Message) -> str:
    try:
        decode(message.data)
    except NewerEventError as error:
        return escape(f"{message.subject}: {error}; upgrade agentctl to read it, or use --json")
    except msgspec.DecodeError:
        pass
    return escape(f"{message.subject}: {len(message.data)} bytes that are no event")


def raw(message: Message) -> str:
    """The message as it is stored, on one line."""
    return escape_json(message.data.decode(errors="replace"))
