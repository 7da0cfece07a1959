"""The buffer between the engine and the bus: in order, bounded, with a count of lost events."""

from __future__ import annotations

import asyncio

import pytest

from sematext_agent.docker_collector import buffer as buffer_module
from sematext_agent.docker_collector.buffer import (
    EngineBuffer,
    EngineHistory,
    EventLines,
    LostEvents,
)
from sematext_agent.docker_collector.reader import EventStreamReader


def line(number: int) -> EventLines:
    return EventLines([b"%d" % number])


async def drain(buffer: EngineBuffer) -> list[int | str]:
    """Close the buffer; return the numbers of its lines, and the counts of lost events."""
    contents: list[int | str] = []
    buffer.close()
    while (item := await buffer.take(1)) is not None:
        if isinstance(item, EventLines):
            contents += [int(piece) for piece in item.pieces]
        elif isinstance(item, LostEvents):
            contents.append(f"lost {item.count}")
        else:
            contents.append(type(item).__name__)
    return contents


async def test_items_come_out_in_the_order_they_went_in() -> None:
    buffer = EngineBuffer()
    for number in range(300):
        buffer.put(line(number), 1, 1)
    buffer.put(EngineHistory([], 0), 0, 0)
    buffer.put(line(300), 1, 1)
    assert len(buffer) == 301
    assert await drain(buffer) == [*range(300), "EngineHistory", 300]
    assert len(buffer) == 0


async def test_events_that_do_not_fit_are_counted_in_their_place(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buffer_module, "EVENTS_MAX", 10)
    monkeypatch.setattr(buffer_module, "_BATCH_EVENTS_MAX", 1)
    buffer = EngineBuffer()
    assert all(buffer.put(line(number), 1, 1) for number in range(10))
    assert not any(buffer.put(line(number), 1, 1) for number in range(10, 15))
    for _ in range(5):
        await buffer.take(1)
    assert not buffer.put(line(15), 1, 1)  # Not until half of it is free.
    await buffer.take(1)
    assert buffer.put(line(16), 1, 1)
    assert await drain(buffer) == [6, 7, 8, 9, "lost 6", 16]


async def test_the_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "BYTES_MAX", 1000)
    buffer = EngineBuffer()
    assert buffer.put(line(1), 1, 900)
    assert not buffer.put(line(2), 1, 101)
    assert await drain(buffer) == [1, "lost 1"]


async def test_a_batch_of_lines_is_bounded_in_events_and_in_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(buffer_module, "_BATCH_EVENTS_MAX", 3)
    monkeypatch.setattr(buffer_module, "_BATCH_BYTES_MAX", 1000)
    buffer = EngineBuffer()
    for size_bytes in (1, 1, 1, 1, 999, 1):
        buffer.put(line(0), 1, size_bytes)
    buffer.close()
    sizes = []
    while isinstance(batch := await buffer.take(1), EventLines):
        sizes.append(len(batch.pieces))
    assert sizes == [3, 2, 1]


async def test_a_taker_is_woken_by_another_thread() -> None:
    buffer = EngineBuffer()
    taking = asyncio.create_task(buffer.take(5))
    await asyncio.sleep(0)
    await asyncio.to_thread(buffer.put, line(7), 1, 1)
    assert await taking == line(7)


async def test_an_empty_buffer_times_out_and_the_next_item_is_still_taken() -> None:
    buffer = EngineBuffer()
    with pytest.raises(TimeoutError):
        await buffer.take(0.01)
    buffer.put(line(1), 1, 1)
    assert await buffer.take(0.01) == line(1)


class PiecewiseStream:
    """A stream that brings these pieces, and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def read(self) -> bytes:
        return self._pieces.pop(0)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_messages_are_whole_wherever_the_stream_is_cut(size: int) -> None:
    text = "{ä}\n{b}\n{c}\n".encode()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    buffer, ended = EngineBuffer(), asyncio.Event()
    reader = EventStreamReader(PiecewiseStream(*pieces), buffer, ended)  # type: ignore[arg-type]
    reader.start()
    await asyncio.wait_for(ended.wait(), 5)
    buffer.close()
    lines = []
    while (item := await buffer.take(1)) is not None:
        assert isinstance(item, EventLines)
        lines += b"\n".join(item.pieces).split(b"\n")
    assert lines == [b"{\xc3\xa4}", b"{b}", b"{c}"]
    reader.join(5)
    assert not reader.is_alive()
