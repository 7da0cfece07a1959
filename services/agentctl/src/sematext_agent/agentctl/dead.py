"""`agentctl dead`: the dead letters, which are events that could not be delivered, and replay."""

from __future__ import annotations

import argparse

import msgspec

from sematext_agent.agentctl import tap
from sematext_agent.agentctl.connection import connect_to_broker
from sematext_agent.agentctl.state import CommandError
from sematext_agent.agentctl.users import REPLAY
from sematext_agent.shared import dead_letters
from sematext_agent.shared.bus import Bus, Message
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.logs import escape, escape_json
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
)


async def show_list(options: argparse.Namespace) -> int:
    """Print one line for each dead letter: number, event and reason."""
    count = 0
    async with connect_to_broker(options) as connection:
        async for message in dead_letters.read_dead_letters(connection):
            count += 1
            headers = (DEAD_STATUS_HEADER, DEAD_REASON_HEADER)
            reason = escape(" ".join(message.headers.get(name, "") for name in headers))
            print(f"{message.sequence:>6}  {tap.format_message_line(message)}  <- {reason}")
    if not count:
        print("There are no dead letters.")
    return 0


async def show_dead_letter(options: argparse.Namespace) -> int:
    """Print one dead letter: its subject, its headers and the whole event."""
    async with connect_to_broker(options) as connection:
        message = await _find_dead_letter(connection, options.number)
    print(f"subject   {escape(dead_letters.original_subject_of(message))}")
    for name in (DEAD_TIME_HEADER, DEAD_STATUS_HEADER, DEAD_REASON_HEADER, DEAD_SEQUENCE_HEADER):
        label = name.rpartition("-")[2].lower()
        print(f"{label:<10}{escape(message.headers.get(name, ''))}")
    try:
        for line in msgspec.json.format(message.data, indent=2).decode().split("\n"):
            print(escape_json(line))
    except DECODE_ERRORS:
        print(tap.format_raw(message))
    return 0


async def replay(options: argparse.Namespace) -> int:
    """Publish dead letters again on their subjects, as new events for the forwarder."""
    if bool(options.numbers) == options.all:
        raise CommandError("name the numbers to replay (see `agentctl dead list`), or --all")
    async with connect_to_broker(options, REPLAY) as connection:
        if options.all:
            messages = [message async for message in dead_letters.read_dead_letters(connection)]
        else:
            messages = [await _find_dead_letter(connection, number) for number in options.numbers]
        for message in messages:
            await dead_letters.replay_dead_letter(connection, message)
    print(f"{len(messages)} replayed.")
    return 0


async def _find_dead_letter(connection: Bus, number: int) -> Message:
    message = await dead_letters.find_dead_letter(connection, number)
    if message is None:
        raise CommandError(f"no dead letter has the number {number}; see `agentctl dead list`")
    return message
