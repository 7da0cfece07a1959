"""A bound that is reached: dropped dead letters are counted and reported, buckets grow."""

from __future__ import annotations

from typing import Any

import pytest
from prometheus_client import generate_latest

from sematext_agent.forwarder import bucket_growth
from sematext_agent.forwarder.bucket_growth import BucketGrowth
from sematext_agent.forwarder.settings import STREAM_BYTES_MIN, ForwarderSettings
from sematext_agent.forwarder.streams import StreamKeeper
from sematext_agent.shared import bus
from sematext_agent.shared.clock import SYSTEM_CLOCK
from sematext_agent.shared.events import Gap, decode
from sematext_agent.shared.health import Health
from sematext_agent.shared.subjects import CURSORS_BUCKET

DEAD_LETTER_BYTES = 100_000


@pytest.fixture
def health() -> Health:
    return Health("forwarder", "web-01")


@pytest.fixture
async def streams(connection: bus.Bus, health: Health) -> StreamKeeper:
    settings = ForwarderSettings(dead_bytes_max=STREAM_BYTES_MIN)
    keeper = StreamKeeper(connection, settings, health)
    await keeper.provisioner.provision()
    return keeper


async def add_dead_letters(connection: bus.Bus, numbers: range) -> None:
    for number in numbers:
        await connection.publish("dead.events.a", b"x" * DEAD_LETTER_BYTES, str(number))


async def gaps(connection: bus.Bus) -> list[Gap]:
    state = (await connection.request_api("STREAM.INFO.EVENTS"))["state"]
    sequences = range(max(1, state["first_seq"]), state["last_seq"] + 1)
    messages = [await connection.manager.get_msg("EVENTS", number) for number in sequences]
    bodies = [decode(message.data).body for message in messages]
    return [body for body in bodies if isinstance(body, Gap)]


async def test_dropped_dead_letters_are_counted_and_reported(
    streams: StreamKeeper, connection: bus.Bus, health: Health
) -> None:
    await add_dead_letters(connection, range(8))
    await streams.inspect()
    assert await gaps(connection) == []
    await add_dead_letters(connection, range(8, 15))  # ten of them fit
    await streams.inspect()
    (gap,) = await gaps(connection)
    assert (gap.source, gap.reason, gap.lost) == ("forwarder", "dead_letters_full", 5)
    assert "5 dead letters are gone" in health.report().last_error
    assert b'dead_letters_dropped_total{service="forwarder"} 5.0' in generate_latest(
        health.registry
    )


async def test_many_dropped_dead_letters_are_reported_together(
    streams: StreamKeeper, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    await add_dead_letters(connection, range(10))
    await streams.inspect()
    for number in range(10, 14):
        await add_dead_letters(connection, range(number, number + 1))
        await streams.inspect()
    assert [gap.lost for gap in await gaps(connection)] == [1]
    monkeypatch.setattr(streams.dropped_dead_letters, "_report_at", 0.0)
    await streams.inspect()
    assert [gap.lost for gap in await gaps(connection)] == [1, 3]


async def test_dead_letters_that_somebody_removed_are_not_reported(
    streams: StreamKeeper, connection: bus.Bus
) -> None:
    await add_dead_letters(connection, range(5))
    await streams.inspect()
    await connection.request_api("STREAM.PURGE.DEAD", {"seq": 4})
    await streams.inspect()
    assert await gaps(connection) == []


async def test_a_bucket_grows_and_stays_so(
    streams: StreamKeeper, connection: bus.Bus, health: Health, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_growth, "GROW_AT", 0.001)
    await connection.put(CURSORS_BUCKET, "docker.web-01", b"x" * 100_000)
    await streams.inspect()

    async def size() -> int:
        stream = await connection.request_api(f"STREAM.INFO.KV_{CURSORS_BUCKET}")
        return int(stream["config"]["max_bytes"])

    assert await size() == 2 * ForwarderSettings().cursors_bytes_max
    assert await connection.get(CURSORS_BUCKET, "docker.web-01") == b"x" * 100_000
    await streams.provisioner.provision()
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


async def test_a_bucket_that_cannot_grow_is_reported(
    streams: StreamKeeper, connection: bus.Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bucket_growth, "GROW_AT", 0.0)
    health = Health("other", "web-01")
    full_disk: Any = FullDisk(connection)
    await BucketGrowth(full_disk, health, SYSTEM_CLOCK).inspect()
    assert "cannot grow: insufficient storage" in health.last_error
