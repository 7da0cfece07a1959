"""A cursor never replaces a newer one, and nothing else counts as such a conflict.

The broker is real.
"""

from __future__ import annotations

import asyncio
import itertools
import shutil
import signal
from typing import Any

import pytest
from broker import NatsServer, wait_until

from sematext_agent.shared.bus import BucketEntry, Bus, BusError
from sematext_agent.shared.cursors import CursorConflict, Cursors
from sematext_agent.shared.health import Condition, Health
from sematext_agent.shared.subjects import CURSORS_BUCKET

KEY = "kubernetes.prod"


TRIES_MAX = 1000


@pytest.fixture
async def bus(connection: Bus) -> Bus:
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    return connection


def cursors_of_process(bus: Bus, health: Health | None = None) -> Cursors:
    """Return the cursors of one more process, which tries often, but not for ever."""
    tries = itertools.count()

    def draw_short_delay(low: float, high: float) -> float:
        assert next(tries) < TRIES_MAX, "tried again for ever"
        return 0.01

    return Cursors(bus, health or Health("kubernetes", "prod"), draw_short_delay)


async def test_a_process_that_was_replaced_cannot_store_its_older_cursor(bus: Bus) -> None:
    suspended, successor = cursors_of_process(bus), cursors_of_process(bus)
    await suspended.read(KEY)
    await suspended.store(KEY, b"1")
    assert await successor.read(KEY) == b"1"
    await successor.store(KEY, b"9")
    with pytest.raises(CursorConflict) as caught:
        await suspended.store(KEY, b"2")
    assert str(caught.value) == (
        "another process stored the cursor kubernetes.prod: there is a second collector of this "
        "name, or the broker was restored (the next start reads it anew)"
    )
    await successor.store(KEY, b"10")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"10"


async def test_the_second_of_two_processes_without_a_stored_cursor_is_refused(bus: Bus) -> None:
    first, second = cursors_of_process(bus), cursors_of_process(bus)
    assert (await first.read(KEY), await second.read(KEY)) == (None, None)
    await first.store(KEY, b"1")
    with pytest.raises(CursorConflict):
        await second.store(KEY, b"2")


async def test_a_later_read_does_not_allow_to_replace_the_cursor_of_another_process(
    bus: Bus,
) -> None:
    ours = cursors_of_process(bus)
    await ours.read(KEY)
    await bus.put(CURSORS_BUCKET, KEY, b"another's")
    assert await ours.read(KEY) == b"another's"
    with pytest.raises(CursorConflict):
        await ours.store(KEY, b"1")


async def test_a_store_without_a_read_replaces_the_stored_cursor(bus: Bus) -> None:
    await bus.put(CURSORS_BUCKET, KEY, b"of an earlier run")
    await cursors_of_process(bus).store(KEY, b"1")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"1"


async def test_a_store_whose_acknowledgement_was_lost_is_no_conflict(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, replace = cursors_of_process(bus), bus.replace
    await ours.store(KEY, b"1")

    async def lose_acknowledgement(*arguments: Any) -> int:
        monkeypatch.setattr(bus, "replace", replace)
        await replace(*arguments)
        raise BusError("no acknowledgement in time")

    monkeypatch.setattr(bus, "replace", lose_acknowledgement)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"
    await ours.store(KEY, b"3")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"3"


async def test_a_store_that_the_stop_interrupted_is_no_conflict(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cursor was stored, and the end of the service stores a newer one without knowing it."""
    ours, replace, stored = cursors_of_process(bus), bus.replace, asyncio.Event()
    await ours.read(KEY)

    async def lose_acknowledgement(*arguments: Any) -> int:
        await replace(*arguments)
        stored.set()
        return await asyncio.Future()

    monkeypatch.setattr(bus, "replace", lose_acknowledgement)
    storing = asyncio.create_task(ours.store(KEY, b"1"))
    await stored.wait()
    storing.cancel()
    await asyncio.wait([storing])
    monkeypatch.setattr(bus, "replace", replace)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_read_from_a_server_that_lags_behind_is_no_conflict(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster a follower answers reads, the leader writes: here with a lost answer."""
    ours, replace, entry = cursors_of_process(bus), bus.replace, bus.get_entry
    await ours.store(KEY, b"1")
    before = await entry(CURSORS_BUCKET, KEY)

    async def lose_acknowledgement(*arguments: Any) -> int:
        monkeypatch.setattr(bus, "replace", replace)
        await replace(*arguments)
        raise BusError("no acknowledgement in time")

    async def read_old(*_: Any) -> BucketEntry:
        monkeypatch.setattr(bus, "get_entry", entry)
        return before

    monkeypatch.setattr(bus, "replace", lose_acknowledgement)
    monkeypatch.setattr(bus, "get_entry", read_old)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_bucket_that_was_created_anew_takes_the_cursor(bus: Bus) -> None:
    ours = cursors_of_process(bus)
    for number in range(5):
        await ours.store(KEY, b"%d" % number)
    await bus.manager.delete_key_value(CURSORS_BUCKET)
    await bus.manager.create_key_value(bucket=CURSORS_BUCKET)
    await ours.store(KEY, b"5")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"5"


async def test_a_cursor_that_was_deleted_is_stored_again(bus: Bus) -> None:
    ours, bucket = cursors_of_process(bus), await bus.manager.key_value(CURSORS_BUCKET)
    await ours.store(KEY, b"1")
    await bucket.delete(KEY)
    assert await cursors_of_process(bus).read(KEY) is None
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_broker_restored_from_an_older_store_is_read_anew(
    bus: Bus, nats_server: NatsServer
) -> None:
    """The events stored since then are lost as well: only the older cursor reads them again."""
    ours, jetstream = cursors_of_process(bus), nats_server.store / "jetstream"
    await ours.store(KEY, b"1")
    nats_server.signal(signal.SIGTERM)
    await wait_until(lambda: not bus.is_connected)
    shutil.copytree(jetstream, nats_server.store / "backup")
    nats_server.start()
    await wait_until(lambda: bus.is_connected)
    for number in range(2, 5):
        await ours.store(KEY, b"%d" % number)
    nats_server.signal(signal.SIGKILL)
    await wait_until(lambda: not bus.is_connected)
    shutil.rmtree(jetstream)
    (nats_server.store / "backup").rename(jetstream)
    nats_server.start()
    await wait_until(lambda: bus.is_connected)
    with pytest.raises(CursorConflict):
        await ours.store(KEY, b"5")
    assert await cursors_of_process(bus).read(KEY) == b"1"


async def test_a_cursor_that_cannot_be_stored_is_a_condition_of_health(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as a cursor larger than the broker takes, which is tried again for ever."""
    health = Health("kubernetes", "prod")
    replace, conditions = bus.replace, []

    async def refuse(*arguments: Any) -> int:
        conditions.append(health.report().conditions.get("cursor"))
        if len(conditions) < 9:
            raise BusError("maximum payload exceeded")
        return await replace(*arguments)

    monkeypatch.setattr(bus, "replace", refuse)
    await cursors_of_process(bus, health).store(KEY, b"1")
    assert conditions[:6] == [None] * 6
    assert conditions[-1] == Condition(False, "maximum payload exceeded")
    assert health.report().conditions["cursor"].ok
