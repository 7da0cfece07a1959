"""`agentctl tap`: recent events and then live ones, as summaries or as they are stored."""

from __future__ import annotations

import argparse
import asyncio
import datetime
import os
import re
import stat
import sys
from collections.abc import AsyncGenerator
from contextlib import aclosing
from fnmatch import fnmatchcase

import msgspec

from sematext_agent.agentctl.connection import connect_to_broker
from sematext_agent.agentctl.state import CommandError
from sematext_agent.agentctl.terminal import Terminal
from sematext_agent.shared import summary
from sematext_agent.shared.bus import Message
from sematext_agent.shared.clock import SYSTEM_CLOCK
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
from sematext_agent.shared.severity import SEVERITIES, severity_of
from sematext_agent.shared.stream_reader import follow_messages
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM, clean_token
from sematext_agent.shared.waiting import run_until_event

_ORIGIN_CHARACTERS_MAX = 30
_SUBJECT = re.compile(r"(events|dead)(\.[^\s.>]+)*(\.>)?")


async def show(options: argparse.Namespace) -> int:
    """Print events until it is interrupted, or until nobody reads the output."""
    subject = subject_for(options)
    stream = DEAD_STREAM if subject.partition(".")[0] == "dead" else EVENTS_STREAM
    since_seconds = SYSTEM_CLOCK.wall_ns() / 1e9 - options.since
    since = datetime.datetime.fromtimestamp(since_seconds, datetime.UTC)
    async with connect_to_broker(options) as connection:
        connection.on_connection = _print_connection
        messages = follow_messages(connection, stream, subject, since)
        await run_until_event(
            _watch_closing(sys.stdout.fileno()), _print_messages(options, messages)
        )
    return 0


async def _print_messages(
    options: argparse.Namespace, messages: AsyncGenerator[Message, None]
) -> None:
    """Print the messages that pass the filters."""
    summaries = EventLineFormatter(Terminal(sys.stdout))
    async with aclosing(messages):
        async for message in messages:
            event = _decode_event(message)
            if is_selected(options, message, event):
                line = format_raw(message) if options.json else summaries.format(message, event)
                print(line, flush=True)


def _watch_closing(output: int) -> asyncio.Event:
    """Return an event that is set when the reader closes the pipe `output`.

    Without it, `agentctl tap | head -n 1` would hang until one more event comes. It is never set
    for a terminal or a file.
    """
    closed = asyncio.Event()
    if stat.S_ISFIFO(os.fstat(output).st_mode):
        # Nothing is ever read from it: the loop wakes up for the error that the kernel reports.
        asyncio.get_running_loop().add_reader(output, closed.set)
    return closed


def is_selected(options: argparse.Namespace, message: Message, event: Event | None) -> bool:
    """Return whether the message passes the filters; one that is no event passes only `--grep`."""
    pattern = options.grep.lower()
    if event is None:
        is_filtered = options.object or options.name or options.severity
        return not is_filtered and pattern in _describe_undecodable(message).lower()
    body = event.body
    severity_min = options.severity or SEVERITIES[0]
    text = summary.format_event_line(event)
    if options.json:
        text += format_raw(message)
    return (
        (not options.object or object_kind(message).lower() == options.object.lower())
        and (not options.name or fnmatchcase(object_name(body).lower(), options.name.lower()))
        and SEVERITIES.index(severity_of(body)) >= SEVERITIES.index(severity_min)
        and pattern in text.lower()
    )


def object_kind(message: Message) -> str:
    """Return the kind of the object, from the subject: `container`, `Pod`, `package`."""
    tokens = message.subject.removeprefix("dead.").split(".")
    return tokens[3] if len(tokens) > 3 else ""


def object_name(body: Body) -> str:
    """Return the name of the object that the event is about."""
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


class EventLineFormatter:
    """The format of events as lines, in columns as wide as the events so far need."""

    def __init__(self, terminal: Terminal) -> None:
        self._terminal = terminal
        self._origin_characters = 0

    def format(self, message: Message, event: Event | None) -> str:
        """Return one line for a message; `event` is None for a message that is no event."""
        if event is None:
            return self._terminal.paint(_describe_undecodable(message), "faint")
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


def _print_connection(up: bool) -> None:
    print("agentctl: the broker is " + ("back" if up else "away"), file=sys.stderr, flush=True)


def subject_for(options: argparse.Namespace) -> str:
    """Return the subject to listen on: the option's, or the one for a source and an origin.

    Raises:
        CommandError: both are given, or no event can ever have the option's subject.
    """
    source, origin = options.source, options.origin
    if options.subject:
        if source or origin:
            raise CommandError(
                "a SUBJECT includes source and origin; leave --source and --origin out"
            )
        if not _SUBJECT.fullmatch(options.subject):
            raise CommandError(
                f"{options.subject}: no event has such a subject; write it like 'events.docker.>'"
            )
        return str(options.subject)
    if not source and not origin:
        return "events.>"
    return ".".join(("events", source or "*", clean_token(origin) if origin else "*", ">"))


def format_message_line(message: Message) -> str:
    """Return one line for a message, also for one that is no event."""
    event = _decode_event(message)
    return (
        _describe_undecodable(message)
        if event is None
        else escape(summary.format_event_line(event))
    )


def _decode_event(message: Message) -> Event | None:
    try:
        return decode(message.data)
    except msgspec.DecodeError:
        return None


def _describe_undecodable(message: Message) -> str:
    try:
        decode(message.data)
    except NewerEventError as error:
        return escape(f"{message.subject}: {error}; upgrade agentctl to read it, or use --json")
    except msgspec.DecodeError:
        pass
    return escape(f"{message.subject}: {len(message.data)} bytes that are no event")


def format_raw(message: Message) -> str:
    """Return the message as it is stored, on one line."""
    return escape_json(message.data.decode(errors="replace"))
