"""Reading a stream: all that it holds and no more, also where that is nothing."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from broker import NatsServer, wait_until

from sematext_agent.shared import dead_letters
from sematext_agent.shared.bus import Bus, BusError, Message, StreamConfig
from sematext_agent.shared.stream_reader import find_info, read_messages


@pytest.fixture
async def dead(connection: Bus) -> Bus:
    await connection.manager.add_stream(StreamConfig(name="DEAD", subjects=["dead.>"]))
    return connection


async def sequences(messages: AsyncGenerator[Message, None]) -> list[int]:
    async with asyncio.timeout(5), aclosing(messages):
        return [message.sequence async for message in messages]


async def test_stored_messages_are_read_to_the_end(dead: Bus) -> None:
    for number in range(1000):
        await dead.begin_publish("dead.events.a", b"{}", str(number))
    await dead.publish("dead.events.b", b"{}", "b")
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 1)) == list(range(1, 1002))
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 999)) == [999, 1000, 1001]
    assert await sequences(read_messages(dead, "DEAD", "dead.events.b", 1)) == [1001]


async def test_nothing_is_read_behind_the_end_nor_from_a_missing_stream(dead: Bus) -> None:
    assert await sequences(read_messages(dead, "NONE", ">", 1)) == []
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 1)) == []
    await dead.publish("dead.a", b"{}", "a")
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 2)) == []
    assert await find_info(dead, "STREAM.INFO.NONE") is None


async def test_a_broker_that_is_lost_while_reading_is_an_error(
    dead: Bus, nats_server: NatsServer
) -> None:
    """Else the messages so far would pass for all of them."""
    for number in range(1000):
        await dead.publish("dead.a", b"{}", str(number))

    async def read_slowly() -> None:
        async for message in read_messages(dead, "DEAD", "dead.>", 1):
            if message.sequence == 1:
                nats_server.signal(signal.SIGKILL)
                await wait_until(lambda: not dead.is_connected)
                nats_server.start()

    with pytest.raises(BusError, match="the broker went away while DEAD was read"):
        async with asyncio.timeout(20):
            await read_slowly()


async def test_a_dead_letter_is_found_by_its_number_only(dead: Bus) -> None:
    for number in "abc":
        await dead.publish("dead.events.a", number.encode(), number)
    await dead.request_api("STREAM.MSG.DELETE.DEAD", {"seq": 2})
    letter = await dead_letters.find_dead_letter(dead, 3)
    assert letter is not None
    assert (letter.data, dead_letters.original_subject_of(letter)) == (b"c", "events.a")
    assert await dead_letters.find_dead_letter(dead, 2) is None
    assert await dead_letters.find_dead_letter(dead, 4) is None


async def test_a_reader_that_has_ended_leaves_no_puller_behind(dead: Bus) -> None:
    await dead.publish("dead.a", b"{}", "a")
    for _ in range(5):
        await sequences(read_messages(dead, "DEAD", "dead.>", 1))
    assert dead._connection.reconnect_callbacks == []
