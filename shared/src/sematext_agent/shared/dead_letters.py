"""Reading, finding and replaying dead letters; `shared.subjects` defines their form."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing

from sematext_agent.shared.bus import Bus, Message
from sematext_agent.shared.stream_reader import read_messages
from sematext_agent.shared.subjects import DEAD_STREAM, DEAD_SUBJECTS, dead_subject, replay_id


def read_dead_letters(bus: Bus, first: int = 1) -> AsyncGenerator[Message, None]:
    """Yield the dead letters of now, oldest first, from the number `first` on. Raises BusError."""
    return read_messages(bus, DEAD_STREAM, DEAD_SUBJECTS, first)


async def find_dead_letter(bus: Bus, number: int) -> Message | None:
    """Return the dead letter of that number, or None. Raises BusError."""
    async with aclosing(read_dead_letters(bus, number)) as messages:
        async for message in messages:
            return message if message.sequence == number else None
    return None


def original_subject_of(message: Message) -> str:
    """Return the subject on which the event of a dead letter was published."""
    return message.subject.removeprefix(dead_subject(""))


async def replay_dead_letter(bus: Bus, message: Message) -> None:
    """Publish a dead letter again on its subject, as a new event for the forwarder.

    It is removed only after the stream has it. Its number makes the new id: published but not
    removed, it is stored once, however often it is replayed. Raises BusError.
    """
    message_id = replay_id(message.id.partition(":replay:")[0], message.sequence)
    await bus.publish(original_subject_of(message), message.data, message_id)
    await bus.request_api(f"STREAM.MSG.DELETE.{DEAD_STREAM}", {"seq": message.sequence})
