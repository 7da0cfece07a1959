"""The events that the receiver refused for good: reading them, and sending them once more.

`shared.subjects` says what a dead letter is.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sematext_agent.shared.bus import Bus, Message
from sematext_agent.shared.stream_reader import read_messages
from sematext_agent.shared.subjects import DEAD_STREAM, DEAD_SUBJECTS, dead_subject, replay_id


def read_dead_letters(bus: Bus, first: int = 1) -> AsyncGenerator[Message, None]:
    """Every dead letter there is now, oldest first, from the number `first` on. Raises BusError."""
    return read_messages(bus, DEAD_STREAM, DEAD_SUBJECTS, first)


async def find_dead_letter(bus: Bus, number: int) -> Message | None:
    """The dead letter of that number, or None where there is none. Raises BusError."""
    async with aclosing(read_dead_letters(bus, number)) as found:
        async for letter in found:
            return letter if letter.sequence == number else None
    return None


def original_subject_of(letter: Message) -> str:
    """The subject the event was published on."""
    return letter.subject.removeprefix(dead_subject(""))


async def replay_dead_letter(bus: Bus, letter: Message) -> None:
    """Puts a dead letter back on its subject, where the forwarder finds it as a new event.

    It is removed only after the stream has it. Its number makes the new id, so that one which was
    sent but not removed is stored once, however often it is replayed. Raises BusError.
    """
    message_id = replay_id(letter.id.partition(":replay:")[0], letter.sequence)
    await bus.publish(original_subject_of(letter), letter.data, message_id)
    await bus.request_api(f"STREAM.MSG.DELETE.{DEAD_STREAM}", {"seq": letter.sequence})
