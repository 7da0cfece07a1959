"""`agentctl dead`: the events that the receiver refused for good, and sending them once more."""

from __future__ import annotations

import argparse

import msgspec

from sematext_agent.agentctl import tap
from sematext_agent.agentctl.reaching import broker
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
    """Prints one line for each dead letter: number, reason and the event in words."""
    async with broker(options) as connection:
        none = True
        async for message in dead_letters.read_dead_letters(connection):
            none = False
            why = " ".join(
                message.headers.get(name, "") for name in (DEAD_STATUS_HEADER, DEAD_REASON_HEADER)
            )
            print(f"{message.sequence:>6}  {tap.in_words(message)}  <- {escape(why)}")
    if none:
        print("No event was refused.")
    return 0


async def show_one(options: argparse.Namespace) -> int:
    """Prints one dead letter whole: where it was, why it was refused, and the event."""
    async with broker(options) as connection:
        message = await _one(connection, options.number)
    print(f"subject   {escape(dead_letters.original_subject_of(message))}")
    for name in (DEAD_TIME_HEADER, DEAD_STATUS_HEADER, DEAD_REASON_HEADER, DEAD_SEQUENCE_HEADER):
        label = name.rpartition("-")[2].lower()
        print(f"{label:<10}{escape(message.headers.get(name, ''))}")
    try:
        for line in msgspec.json.format(message.data, indent=2).decode().split("\n"):
            print(escape_json(line))
    except DECODE_ERRORS:
        print(tap.raw(message))
    return 0


async def replay(options: argparse.Namespace) -> int:
    """Puts dead letters back on their subjects, where the forwarder finds them as new events."""
    if bool(options.numbers) == options.all:
        raise CommandError("name the numbers to replay (see `agentctl dead list`), or --all")
    async with broker(options, REPLAY) as connection:
        if options.all:
            letters = [message async for message in dead_letters.read_dead_letters(connection)]
        else:
            letters = [await _one(connection, number) for number in options.numbers]
        for letter in letters:
            await dead_letters.replay_dead_letter(connection, letter)
    print(f"{len(letters)} sent once more.")
    return 0


async def _one(connection: Bus, number: int) -> Message:
    letter = await dead_letters.find_dead_letter(connection, number)
    if letter is None:
        raise CommandError(f"no dead letter has the number {number}; see `agentctl dead list`")
    return letter
