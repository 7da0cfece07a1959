"""A bound that is reached: what is dropped is counted and told, what may not be dropped grows."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from sematext_agent.forwarder import bounds
from sematext_agent.forwarder.bounds import Bounds
from sematext_agent.forwarder.settings import STREAM_BYTES_MIN, ForwarderSettings
from sematext_agent.forwarder.streams import Streams
from sematext_agent.shared import bus
from sematext_agent.shared.events import Event, Gap, decode
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import CURSORS_BUCKET

LETTER_BYTES = 100_000


@pytest.fixture
def health() -> Health:
    return Health("forwarder", "web-01")


@pytest.fixture
async def streams(connection: bus.Bus, health: Health) -> Streams:
    made = Streams(connection, ForwarderSettings(dead_bytes_max=STREAM_BYTES_MIN), health)
    await made.make()
    return made


async def refuse(connection: bus.Bus, letters: range) -> None:
    for number in letters:
        await connection.publish("dead.events.a", b"x" * LETTER_BYTES, str(number))


async def gaps(connection: bus.Bus) -> list[Event]:
    state = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]
    sequences = range(max(1, state["first_seq"]), state["last_seq"] + 1)
    messages = [await connection.manager.get_msg("EVENTS", number) for number in sequences]
    return [decode(message.data) for message in messages]


async def test_dead_letters_that_are_dropped_are_counted_and_told(
    streams: Streams, connection: bus.Bus, health: Health
) -> None:
    await refuse(connection, range(8))
    await streams._look()
    assert await gaps(connection) == []
    await refuse(connection, range(8, 15))  # ten of them fit
    await streams._look()
    (gap,) = await gaps(connection)
    assert isinstance(gap.body, Gap)
    assert (gap.body.source, gap.body.reason, gap.body.lost) == (
        "forwarder",
        "dead_letters_full",
        5,
    )
    assert "5 dead letters are gone" in health.report().last_error
    assert b'dead_letters_dropped_total{service="forwarder"} 5.0' in generate_latest(
        health.registry
    )


async def test_many_that_are_dropped_are_told_together(
    streams: Streams, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await refuse(connection, range(10))
    await streams._look()
    for number in range(10, 14):
        await refuse(connection, range(number, number + 1))
        await streams._look()
    assert [gap.body.lost for gap in await gaps(connection)] == [1]
    monkeypatch.setattr(streams._bounds, "_tell_at", 0.0)
    await streams._look()
    assert [gap.body.lost for gap in await gaps(connection)] == [1, 3]


async def test_letters_that_somebody_removed_are_not_told(
    streams: Streams, connection: bus.Bus
) -> None:
    await refuse(connection, range(5))
    await streams._look()
    await connection.request_api("STREAM.PURGE.DEAD", {"seq": 4})
    await streams._look()
    assert await gaps(connection) == []


async def test_a_bucket_grows_and_stays_so(
    streams: Streams, connection: bus.Bus, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_GROW_AT", 0.001)
    await connection.put(CURSORS_BUCKET, "docker.web-01", b"x" * 100_000)
    await streams._look()

    async def size() -> int:
        stream = await connection.request_api(f"STREAM.INFO.KV_{CURSORS_BUCKET}")
        return int(stream["config"]["max_bytes"])

    assert await size() == 2 * ForwarderSettings().cursors_bytes_max
    assert await connection.get(CURSORS_BUCKET, "docker.web-01") == b"x" * 100_000
    await streams.make()
    assert await size() == 2 * ForwarderSettings().cursors_bytes_max
    assert health.last_error == ""


class FullDisk:
    """A bus to a broker that has no room for a larger stream."""

    def __init__(self, connection: bus.Bus) -> None:
        self._connection = connection

    async def request_api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        if call.startswith("STREAM.UPDATE"):
            raise bus.JetStreamError(500, "insufficient storage resources available")
        return await self._connection.request_api(call, request)


async def test_a_bucket_that_cannot_grow_is_said(
    streams: Streams, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bounds, "_GROW_AT", 0.0)
    health = Health("other", "web-01")
    await Bounds(FullDisk(connection), health).look(
        await connection.request_api("STREAM.INFO.DEAD")
    )
    assert "cannot grow: insufficient storage" in health.last_error
