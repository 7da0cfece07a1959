"""Requests on the bus, and their cancellation."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import Any

import pytest
from nats.aio.client import Client

from sematext_agent.shared.bus import Bus, Msg
from sematext_agent.shared.subjects import CURSORS_BUCKET


async def test_a_cancellation_together_with_the_answer_is_not_lost(
    connection: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`asyncio.wait_for` of Python 3.11 loses it by chance; here it does always."""
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    await connection.put(CURSORS_BUCKET, "here", b"1")
    request = Client.request

    async def losing(client: Client, *arguments: Any, **options: Any) -> Any:
        answer = asyncio.ensure_future(request(client, *arguments, **options))
        try:
            return await asyncio.shield(answer)
        except asyncio.CancelledError:
            return await answer

    monkeypatch.setattr(Client, "request", losing)
    reading = asyncio.create_task(connection.get(CURSORS_BUCKET, "here"))
    await asyncio.sleep(0)
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await connection.get(CURSORS_BUCKET, "here") == b"1"


async def test_a_request_without_an_answer_is_none_and_one_to_all_collects_every_answer(
    connection: Bus,
) -> None:
    assert await connection.request("agent.nobody", b"", 0.5) is None
    assert await connection.request_all("agent.nobody", 0.05) == []

    async def answer(request: Msg, payload: bytes) -> None:
        await connection.reply(request, payload)

    for payload in (b"a", b"b"):
        await connection.subscribe("agent.status", partial(answer, payload=payload))
    assert await connection.request("agent.status", b"", 5) in (b"a", b"b")
    assert sorted(await connection.request_all("agent.status", 0.2)) == [b"a", b"b"]


async def test_a_request_whose_reply_subject_is_no_inbox_is_not_answered(connection: Bus) -> None:
    """The sender names the subject, so an answer to any subject could become an event."""
    received: list[bytes] = []

    async def receive(message: Msg) -> None:
        received.append(message.data)

    async def answer(request: Msg) -> None:
        await connection.reply(request, b"answer to " + request.data)

    await connection.subscribe("events.forged", receive)
    unsubscribe = await connection.subscribe("agent.status", answer)
    await connection.send("agent.status", b"1", "events.forged")
    assert await connection.request("agent.status", b"2", 5) == b"answer to 2"
    await connection.flush()
    await unsubscribe()
    assert received == []
