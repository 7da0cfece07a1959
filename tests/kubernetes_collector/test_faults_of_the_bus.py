"""A failing broker, a killed collector, a slow stream: no event is lost or duplicated."""

from __future__ import annotations

import asyncio
import itertools
import signal
from collections.abc import Callable
from typing import Any

import pytest
from broker import NatsServer, wait_until
from kubernetes_api import ApiServer
from kubernetes_running import (
    FastWallClock,
    RunningCollector,
    gaps,
    published_events,
    revisions,
    store_cursor,
    stored_cursor,
    wait_for_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector import frames
from sematext_agent.kubernetes_collector.events_resource import LINES_MAX
from sematext_agent.kubernetes_collector.frames import decode_frame
from sematext_agent.shared.bus import Bus, PublishAck, publisher

Start = Callable[..., RunningCollector]


Answer = asyncio.Future[PublishAck]


async def test_killed_between_publish_and_acknowledgement(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    begin, stored = streams.begin_publish, []

    async def unheard(subject: str, payload: bytes, message_id: str) -> Answer:
        """Store the event, and never return its acknowledgement."""
        await (await begin(subject, payload, message_id))
        stored.append(message_id)
        return asyncio.get_running_loop().create_future()

    monkeypatch.setattr(streams, "begin_publish", unheard)
    first = start_collector()
    for number in range(50):
        cluster.add(f"e{number}")
    await wait_until(lambda: len(stored) == 50)
    await first.kill()
    monkeypatch.setattr(streams, "begin_publish", begin)
    assert (
        await stored_cursor(streams) is None or (await wait_for_cursor(streams, 0)).revision == 100
    )
    second = start_collector()
    await wait_until(lambda: second.count("events_published") == 50)
    assert second.count("events_duplicate") == 50
    assert revisions(await published_events(streams)) == list(range(101, 151))


async def test_killed_between_acknowledgement_and_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    replace, storing = streams.replace, asyncio.Event()

    async def never(*_: Any) -> int:
        storing.set()
        return await asyncio.Future()

    monkeypatch.setattr(streams, "replace", never)
    first = start_collector()
    for number in range(50):
        cluster.add(f"e{number}")
    await wait_until(lambda: first.count("events_published") == 50)
    await asyncio.wait_for(storing.wait(), 5)
    await first.kill()
    monkeypatch.setattr(streams, "replace", replace)
    start_collector()
    cluster.add("later")
    assert revisions(await wait_for_events(streams, 51)) == list(range(101, 152))
    await wait_for_cursor(streams, 151)


async def test_killed_in_the_middle_of_a_list(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place is stored after the whole list only: the next start lists again."""
    for number in range(1500):
        cluster.add(f"e{number}")
    begin = streams.begin_publish

    async def slow(subject: str, payload: bytes, message_id: str) -> Answer:
        await asyncio.sleep(0.001)
        return await begin(subject, payload, message_id)

    monkeypatch.setattr(streams, "begin_publish", slow)
    first = start_collector()
    await wait_until(lambda: first.count("events_published") > 100)
    await first.kill()
    monkeypatch.setattr(streams, "begin_publish", begin)
    assert await stored_cursor(streams) is None
    start_collector()
    assert sorted(revisions(await wait_for_events(streams, 1500))) == list(range(101, 1601))


@pytest.mark.parametrize("minutes", [1, 20, 70])
async def test_a_broker_outage_loses_no_event_that_the_cluster_still_has(
    cluster: ApiServer,
    streams: Bus,
    start_collector: Start,
    nats_server: NatsServer,
    minutes: int,
) -> None:
    """The wall clock jumps; 5 minutes are compacted away, and an hour is the life of an event."""
    clock = FastWallClock()
    running = start_collector(clock)
    await wait_until(lambda: len(cluster.watches()) == 1)
    before = cluster.add("before")
    await wait_for_events(streams, 1)
    await wait_for_cursor(streams, before)
    nats_server.signal(signal.SIGKILL)
    # More than the window and all buffers on the way hold, so that reading really stops.
    during = [cluster.add(f"e{number}", message="x" * 500) for number in range(8000)]
    await wait_until(lambda: running.count("events_unacknowledged") > 0)
    cluster.delete("before")
    if minutes > 5:
        await running.kill()
        cluster.compact()
    if minutes > 60:
        cluster.objects.clear()
    clock.ahead_seconds = minutes * 60
    nats_server.start()
    if minutes > 5:
        start_collector(clock, KUBERNETES_EVENTS_LOOKBACK="3h")
    after = cluster.add("after", lastTimestamp=None, eventTime=None)
    kept = [] if minutes > 60 else during
    missing = minutes > 60
    events = await wait_for_events(streams, 1 + len(kept) + 1 + missing, 60)
    assert set(revisions(events)) == {before, *kept, after}
    assert len(gaps(events)) == missing
    if minutes > 60:
        assert "events that lived only then are missing" in gaps(events)[0].detail


async def test_lost_acknowledgements_are_retried_without_duplicates(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(publisher, "ACKNOWLEDGEMENT_SECONDS_MAX", 0.2)
    answer, heard = streams._publisher.on_answer, itertools.count()

    def not_the_first(*message: bytes) -> None:
        if next(heard) >= 60:
            answer(*message)

    (sid,) = streams._client._direct
    streams._client._direct[sid] = not_the_first
    running = start_collector()
    for number in range(100):
        cluster.add(f"e{number}")
    await wait_until(lambda: running.count("events_published") == 100)
    assert running.count("events_duplicate") == 60
    assert revisions(await published_events(streams)) == list(range(101, 201))


async def test_a_full_publish_window_stops_the_reading_of_the_watch(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Frames are taken from the watch only as fast as the publish window has space."""
    begin_publish, gate = streams.begin_publish, asyncio.Event()

    async def slow(*message: Any) -> PublishAck:
        await gate.wait()
        return await (await begin_publish(*message))

    async def begin(*message: Any) -> Answer:
        return asyncio.ensure_future(slow(*message))

    monkeypatch.setattr(streams, "begin_publish", begin)
    decoded: list[bytes] = []

    def count(line: bytes) -> frames.Frame:
        decoded.append(line)
        return decode_frame(line)

    monkeypatch.setattr(frames, "decode_frame", count)
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    for number in range(5_000):
        cluster.add(f"e{number}")
    await wait_until(lambda: running.count("events_unacknowledged") == 1024)
    await asyncio.sleep(0.2)
    assert running.count("events_unacknowledged") == 1024
    assert running.count("watch_frames") <= 1025
    assert len(decoded) <= 1025 + LINES_MAX
    gate.set()
    assert revisions(await wait_for_events(streams, 5_000, 60)) == list(range(101, 5_101))


async def test_a_stop_during_a_broker_outage_ends_and_the_next_start_resumes(
    cluster: ApiServer, streams: Bus, start_collector: Start, nats_server: NatsServer
) -> None:
    await store_cursor(streams, 100)
    running = start_collector(DRAIN_SECONDS="200ms")
    await wait_until(lambda: len(cluster.watches()) == 1)
    nats_server.signal(signal.SIGKILL)
    cluster.add("one")
    await wait_until(lambda: running.count("events_unacknowledged") == 1)
    running.runtime.stopping.set()
    await asyncio.wait([running.task], timeout=5)
    assert running.task.done()
    nats_server.start()
    start_collector()
    assert revisions(await wait_for_events(streams, 1)) == [101]
