"""The memory between the engine and the bus: in order, bounded, and honest about its bounds."""

from __future__ import annotations

import asyncio

import pytest

from sematext_agent.docker_collector import backlog
from sematext_agent.docker_collector.backlog import Backlog, Lines, Lost, Reader, Ring


def line(number: int) -> Lines:
    return Lines([b"%d" % number])


async def taken(held: Backlog) -> list[int | str]:
    """Everything in it: the numbers of lines, and what is lost."""
    found: list[int | str] = []
    held.close()
    while (item := await held.take(1)) is not None:
        if isinstance(item, Lines):
            found += [int(piece) for piece in item.pieces]
        elif isinstance(item, Lost):
            found.append(f"lost {item.count}")
        else:
            found.append(type(item).__name__)
    return found


async def test_items_come_out_in_the_order_they_went_in() -> None:
    held = Backlog()
    for number in range(300):
        held.put(line(number), 1, 1)
    held.put(Ring([], 0), 0, 0)
    held.put(line(300), 1, 1)
    assert len(held) == 301
    assert await taken(held) == [*range(300), "Ring", 300]
    assert len(held) == 0


async def test_what_does_not_fit_is_counted_in_its_place(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "EVENTS_MAX", 10)
    monkeypatch.setattr(backlog, "_TOGETHER_MAX", 1)
    held = Backlog()
    assert all(held.put(line(number), 1, 1) for number in range(10))
    assert not any(held.put(line(number), 1, 1) for number in range(10, 15))
    for _ in range(5):
        await held.take(1)
    assert not held.put(line(15), 1, 1)  # Not until half of it is free.
    await held.take(1)
    assert held.put(line(16), 1, 1)
    assert await taken(held) == [6, 7, 8, 9, "lost 6", 16]


async def test_its_bytes_are_bounded_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backlog, "BYTES_MAX", 1000)
    held = Backlog()
    assert held.put(line(1), 1, 900)
    assert not held.put(line(2), 1, 101)
    assert await taken(held) == [1, "lost 1"]


async def test_a_taker_is_woken_by_another_thread() -> None:
    held = Backlog()
    taking = asyncio.create_task(held.take(5))
    await asyncio.sleep(0)
    await asyncio.to_thread(held.put, line(7), 1, 1)
    assert await taking == line(7)


async def test_nothing_to_take_is_a_timeout_and_the_next_item_is_still_taken() -> None:
    held = Backlog()
    with pytest.raises(TimeoutError):
        await held.take(0.01)
    held.put(line(1), 1, 1)
    assert await held.take(0.01) == line(1)


class Pieces:
    """A stream that brings these pieces, and then ends."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = [*pieces, b""]

    def read(self) -> bytes:
        return self._pieces.pop(0)

    def release(self) -> None:
        pass


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
async def test_messages_are_put_together_however_the_stream_cuts_them(size: int) -> None:
    text = "{ä}\n{b}\n{c}\n".encode()
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    held, ended = Backlog(), asyncio.Event()
    reader = Reader(Pieces(*pieces), held, ended)  # type: ignore[arg-type]
    reader.start()
    await asyncio.wait_for(ended.wait(), 5)
    held.close()
    found = []
    while (item := await held.take(1)) is not None:
        assert isinstance(item, Lines)
        found += b"\n".join(item.pieces).split(b"\n")
    assert found == [b"{\xc3\xa4}", b"{b}", b"{c}"]
    reader.join(5)
    assert not reader.is_alive()
