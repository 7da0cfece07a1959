"""`agentctl dead`: the events that the receiver refused for good, and sending them once more."""

from __future__ import annotations

import argparse
from collections.abc import AsyncIterator
from contextlib import aclosing

import msgspec

from agentctl import tap
from agentctl.reaching import broker, follow, lookup
from agentctl.state import CommandError
from shared.bus import Bus, Message
from shared.logs import escape
from shared.subjects import (
    DEAD_REASON,
    DEAD_SEQUENCE,
    DEAD_STATUS,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    DEAD_TIME,
    dead_subject,
    replay_id,
)


async def show_list(options: argparse.Namespace) -> int:
    """Prints one line for each dead letter: number, reason and the event in words."""
    async with broker(options) as connection:
        none = True
        async for message in _all(connection):
            none = False
            why = " ".join(message.headers.get(name, "") for name in (DEAD_STATUS, DEAD_REASON))
            print(f"{message.sequence:>6}  {tap.in_words(message)}  <- {escape(why)}")
    if none:
        print("No event was refused.")
    return 0


async def show_one(options: argparse.Namespace) -> int:
    """Prints one dead letter whole: where it was, why it was refused, and the event."""
    async with broker(options) as connection:
        message = await _one(connection, options.number)
    print(f"subject   {escape(_original_subject(message))}")
    for name in (DEAD_TIME, DEAD_STATUS, DEAD_REASON, DEAD_SEQUENCE):
        label = name.rpartition("-")[2].lower()
        print(f"{label:<10}{escape(message.headers.get(name, ''))}")
    try:
        print(msgspec.json.format(message.data, indent=2).decode())
    except msgspec.DecodeError:
        print(tap.raw(message))
    return 0


async def replay(options: argparse.Namespace) -> int:
    """Puts dead letters back on their subjects, where the forwarder finds them as new events.

    Each is removed only after the stream has it. Its number makes the new id, so that one which
    was sent but not removed is stored once, however often it is replayed.
    """
    if bool(options.numbers) == options.all:
        raise CommandError("name the numbers to replay (see `agentctl dead list`), or --all")
    async with broker(options) as connection:
        if options.all:
            letters = [message async for message in _all(connection)]
        else:
            letters = [await _one(connection, number) for number in options.numbers]
        for letter in letters:
            message_id = replay_id(letter.id.partition(":replay:")[0], letter.sequence)
            await connection.publish(_original_subject(letter), letter.data, message_id)
            await connection.api(f"STREAM.MSG.DELETE.{DEAD_STREAM}", {"seq": letter.sequence})
    print(f"{len(letters)} sent once more.")
    return 0


async def _all(connection: Bus) -> AsyncIterator[Message]:
    """Every dead letter there is now, oldest first."""
    stream = await lookup(connection, f"STREAM.INFO.{DEAD_STREAM}")
    if stream is None or not stream["state"]["messages"]:
        return
    async with aclosing(follow(connection, DEAD_STREAM, DEAD_SUBJECTS, 1)) as messages:
        async for message in messages:
            yield message
            if not message.pending:
                return


async def _one(connection: Bus, number: int) -> Message:
    async for message in _all(connection):
        if message.sequence == number:
            return message
    raise CommandError(f"no dead letter has the number {number}; see `agentctl dead list`")


def _original_subject(message: Message) -> str:
    return message.subject.removeprefix(dead_subject(""))
