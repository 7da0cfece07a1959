"""A cursor is never put over a newer one, and what merely looks like that ends nobody.

The broker is real.
"""

from __future__ import annotations

import asyncio
import shutil
import signal
from typing import Any

import pytest
from broker import NatsServer, eventually

from sematext_agent.shared import cursors
from sematext_agent.shared.bus import BucketEntry, Bus, BusError
from sematext_agent.shared.cursors import CursorConflict, Cursors
from sematext_agent.shared.health import Condition, Health
from sematext_agent.shared.subjects import CURSORS_BUCKET

KEY = "kubernetes.prod"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cursors.Backoff, "draw_delay_seconds", hardly)


def hardly(backoff: cursors.Backoff) -> float:
    backoff.failures += 1
    assert backoff.failures < 1000, "tried again for ever"
    return 0.01


@pytest.fixture
async def bus(connection: Bus) -> Bus:
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    return connection


def of_a_process(bus: Bus) -> Cursors:
    return Cursors(bus, Health("kubernetes", "prod"))


async def test_whoever_was_replaced_cannot_put_its_older_cursor_back(bus: Bus) -> None:
    suspended, successor = of_a_process(bus), of_a_process(bus)
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


async def test_of_two_that_start_for_the_first_time_one_is_refused(bus: Bus) -> None:
    one, other = of_a_process(bus), of_a_process(bus)
    assert (await one.read(KEY), await other.read(KEY)) == (None, None)
    await one.store(KEY, b"1")
    with pytest.raises(CursorConflict):
        await other.store(KEY, b"2")


async def test_looking_again_does_not_make_another_ones_cursor_ours(bus: Bus) -> None:
    ours = of_a_process(bus)
    await ours.read(KEY)
    await bus.put(CURSORS_BUCKET, KEY, b"another's")
    assert await ours.read(KEY) == b"another's"
    with pytest.raises(CursorConflict):
        await ours.store(KEY, b"1")


async def test_what_was_never_read_is_read_before_it_is_stored(bus: Bus) -> None:
    await bus.put(CURSORS_BUCKET, KEY, b"of a time before")
    await of_a_process(bus).store(KEY, b"1")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"1"


async def test_a_lost_acknowledgement_of_our_own_is_no_conflict(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    ours, replace = of_a_process(bus), bus.replace
    await ours.store(KEY, b"1")

    async def unheard(*stored: Any) -> int:
        monkeypatch.setattr(bus, "replace", replace)
        await replace(*stored)
        raise BusError("no acknowledgement in time")

    monkeypatch.setattr(bus, "replace", unheard)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"
    await ours.store(KEY, b"3")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"3"


async def test_what_a_stop_interrupted_is_our_own_too(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It was stored, and the end of the service stores a newer one, without having heard of it."""
    ours, replace, there = of_a_process(bus), bus.replace, asyncio.Event()
    await ours.read(KEY)

    async def unheard(*stored: Any) -> int:
        await replace(*stored)
        there.set()
        return await asyncio.Future()

    monkeypatch.setattr(bus, "replace", unheard)
    storing = asyncio.create_task(ours.store(KEY, b"1"))
    await there.wait()
    storing.cancel()
    await asyncio.wait([storing])
    monkeypatch.setattr(bus, "replace", replace)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_server_that_lags_behind_is_not_believed(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a cluster a follower answers a reading, the leader a writing: here with a lost answer."""
    ours, replace, entry = of_a_process(bus), bus.replace, bus.get_entry
    await ours.store(KEY, b"1")
    before = await entry(CURSORS_BUCKET, KEY)

    async def unheard(*stored: Any) -> int:
        monkeypatch.setattr(bus, "replace", replace)
        await replace(*stored)
        raise BusError("no acknowledgement in time")

    async def late(*_: Any) -> BucketEntry:
        monkeypatch.setattr(bus, "get_entry", entry)
        return before

    monkeypatch.setattr(bus, "replace", unheard)
    monkeypatch.setattr(bus, "get_entry", late)
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_bucket_that_was_made_anew_takes_what_we_know(bus: Bus) -> None:
    ours = of_a_process(bus)
    for number in range(5):
        await ours.store(KEY, b"%d" % number)
    await bus.manager.delete_key_value(CURSORS_BUCKET)
    await bus.manager.create_key_value(bucket=CURSORS_BUCKET)
    await ours.store(KEY, b"5")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"5"


async def test_a_cursor_that_was_deleted_is_stored_again(bus: Bus) -> None:
    ours, bucket = of_a_process(bus), await bus.manager.key_value(CURSORS_BUCKET)
    await ours.store(KEY, b"1")
    await bucket.delete(KEY)
    assert await of_a_process(bus).read(KEY) is None
    await ours.store(KEY, b"2")
    assert await bus.get(CURSORS_BUCKET, KEY) == b"2"


async def test_a_broker_restored_from_an_older_store_is_read_anew(
    bus: Bus, nats_server: NatsServer
) -> None:
    """The events stored since are gone as well: only the older cursor tells them again."""
    ours, jetstream = of_a_process(bus), nats_server.store / "jetstream"
    await ours.store(KEY, b"1")
    nats_server.signal(signal.SIGTERM)
    shutil.copytree(jetstream, nats_server.store / "backup")
    nats_server.start()
    await eventually(lambda: bus.is_connected)
    for number in range(2, 5):
        await ours.store(KEY, b"%d" % number)
    nats_server.signal(signal.SIGKILL)
    shutil.rmtree(jetstream)
    (nats_server.store / "backup").rename(jetstream)
    nats_server.start()
    with pytest.raises(CursorConflict):
        await ours.store(KEY, b"5")
    assert await of_a_process(bus).read(KEY) == b"1"


async def test_a_cursor_that_cannot_be_stored_is_said(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as one that is larger than the broker takes: it would be tried again for ever."""
    health = Health("kubernetes", "prod")
    replace, conditions = bus.replace, []

    async def refuse(*stored: Any) -> int:
        conditions.append(health.report().conditions.get("cursor"))
        if len(conditions) < 9:
            raise BusError("maximum payload exceeded")
        return await replace(*stored)

    monkeypatch.setattr(bus, "replace", refuse)
    await Cursors(bus, health).store(KEY, b"1")
    assert conditions[:6] == [None] * 6
    assert conditions[-1] == Condition(False, "maximum payload exceeded")
    assert health.report().conditions["cursor"].ok
