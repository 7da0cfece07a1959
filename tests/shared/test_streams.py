"""Looking on at a stream: all it holds and no more, also where that is nothing."""

from __future__ import annotations

import asyncio
import gc
import signal
from collections.abc import AsyncGenerator
from contextlib import aclosing

import pytest
from broker import NatsServer, eventually

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


async def test_what_is_stored_is_read_to_its_end(dead: Bus) -> None:
    for number in range(1000):
        await dead.begin_publish("dead.events.a", b"{}", str(number))
    await dead.publish("dead.events.b", b"{}", "b")
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 1)) == list(range(1, 1002))
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 999)) == [999, 1000, 1001]
    assert await sequences(read_messages(dead, "DEAD", "dead.events.b", 1)) == [1001]


async def test_nothing_is_stored_behind_the_end_nor_where_there_is_no_stream(dead: Bus) -> None:
    assert await sequences(read_messages(dead, "NONE", ">", 1)) == []
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 1)) == []
    await dead.publish("dead.a", b"{}", "a")
    assert await sequences(read_messages(dead, "DEAD", "dead.>", 2)) == []
    assert await find_info(dead, "STREAM.INFO.NONE") is None


async def test_a_broker_that_is_lost_meanwhile_is_told(dead: Bus, nats_server: NatsServer) -> None:
    """Or what was read so far would pass for all there is."""
    for number in range(1000):
        await dead.publish("dead.a", b"{}", str(number))

    async def read_slowly() -> None:
        async for message in read_messages(dead, "DEAD", "dead.>", 1):
            if message.sequence == 1:
                nats_server.signal(signal.SIGKILL)
                await eventually(lambda: not dead.is_connected)
                nats_server.start()

    with pytest.raises(BusError, match="the broker went away while DEAD was read"):
        async with asyncio.timeout(20):
            await read_slowly()


async def test_a_dead_letter_is_found_by_its_number_alone(dead: Bus) -> None:
    for number in "abc":
        await dead.publish("dead.events.a", number.encode(), number)
    await dead.request_api("STREAM.MSG.DELETE.DEAD", {"seq": 2})
    found = await dead_letters.find_dead_letter(dead, 3)
    assert found is not None
    assert (found.data, dead_letters.original_subject_of(found)) == (b"c", "events.a")
    assert await dead_letters.find_dead_letter(dead, 2) is None
    assert await dead_letters.find_dead_letter(dead, 4) is None


async def test_a_reader_that_has_ended_leaves_nothing_behind(dead: Bus) -> None:
    await dead.publish("dead.a", b"{}", "a")
    for _ in range(5):
        await sequences(read_messages(dead, "DEAD", "dead.>", 1))
    gc.collect()
    assert dead._connection.reconnect_callbacks == []
