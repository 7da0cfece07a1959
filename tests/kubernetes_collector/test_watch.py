"""The watch in good order: list, then frame after frame, and the cursor that moves with them.

The API server is scripted, the broker is real.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import (
    ApiServer,
    Exchange,
    encode_frame,
    kubelet_event,
    watch_answer,
)
from kubernetes_running import (
    RunningCollector,
    published_events,
    revisions,
    store_cursor,
    wait_for_cursor,
    wait_for_events,
    wait_for_watches,
)

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import KubernetesEvent

Start = Callable[..., RunningCollector]


def revision_of(name: str, revision: int, **fields: object) -> dict[str, object]:
    event = kubelet_event(name, **fields)
    return event | {"metadata": event["metadata"] | {"resourceVersion": str(revision)}}


async def test_existing_and_new_events_are_published_once(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    first = cluster.add("one")
    running = start_collector()
    await wait_for_events(streams, 1)
    second = cluster.add("two")
    repeat = cluster.add("one", count=2)
    events = await wait_for_events(streams, 3)
    assert revisions(events) == [first, second, repeat]
    assert [e.body.count for e in events if isinstance(e.body, KubernetesEvent)] == [1, 1, 2]
    assert all(event.origin == "prod" for event in events)
    await running.stop()
    assert (await wait_for_cursor(streams, repeat)).revision == repeat


async def test_the_next_watch_resumes_from_the_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    for number in range(5):
        cluster.add(f"e{number}")
        await wait_for_events(streams, number + 1)
        cluster.end_watches()
        await wait_for_watches(cluster, number + 2)
    assert [int(watch.params["resourceVersion"]) for watch in cluster.watches()] == [
        100,
        101,
        102,
        103,
        104,
        105,
    ]
    assert running.count("events_published") == 5
    assert running.count("events_duplicate") == 0
    assert len(cluster.lists()) == 1


async def test_a_truncated_line_is_read_again(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.end_watches()

    async def cut(exchange: Exchange) -> None:
        await exchange.head()
        line = encode_frame("ADDED", revision_of("one", 101))
        await exchange.chunk(line)
        await exchange.chunk(encode_frame("ADDED", revision_of("two", 102))[:200])
        await asyncio.sleep(0.05)
        exchange.cut()

    cluster.next_watch.append(cut)
    await wait_until(lambda: len(cluster.watches()) == 2)
    cluster.add("one")
    cluster.add("two")
    assert revisions(await wait_for_events(streams, 2)) == [101, 102]
    assert int(cluster.watches()[2].params["resourceVersion"]) == 101
    assert running.count("records_undecodable") == 0


async def test_an_undecodable_line_is_left_out_at_the_third_try(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.end_watches()

    async def garbage(exchange: Exchange) -> None:
        await exchange.head()
        if int(exchange.params["resourceVersion"]) < 101:
            await exchange.frame("ADDED", revision_of("one", 101))
        await exchange.chunk(b'{"type":"ADDED","object":{"metadata":7}}\n')
        await exchange.frame("ADDED", revision_of("three", 103))
        await asyncio.sleep(3600)

    cluster.revision = 103
    cluster.next_watch.extend([garbage] * 3)
    assert revisions(await wait_for_events(streams, 2)) == [101, 103]
    assert running.count("records_undecodable") == 1
    places = [watch.params["resourceVersion"] for watch in cluster.watches()]
    assert places == ["100", "100", "101", "101"]


async def test_deleted_frames_move_the_cursor_and_publish_nothing(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """An hour after a storm, the cluster deletes it: 10,000 DELETED frames."""
    await store_cursor(streams, 100)
    for number in range(10_000):
        event = revision_of(f"e{number}", 101 + number)
        cluster.history.append((101 + number, "DELETED", event))
    cluster.revision = 10_100
    running = start_collector()
    assert (await wait_for_cursor(streams, 10_100)).revision == 10_100
    assert await published_events(streams) == []
    assert running.count("watch_frames", type="DELETED") == 10_000


async def test_a_bookmark_moves_the_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    bookmark = ("BOOKMARK", {"kind": "Event", "metadata": {"resourceVersion": "170"}})
    cluster.revision = 170
    await store_cursor(streams, 100)
    cluster.next_watch.append(
        watch_answer(bookmark, ("SOMETHING", {"metadata": {"resourceVersion": "171"}}))
    )
    running = start_collector()
    await wait_for_cursor(streams, 171)
    assert running.count("watch_frames", type="other") == 1
    assert await published_events(streams) == []


@pytest.mark.parametrize(
    ("lookback", "expected"), [("10m", ["recent"]), ("24h", ["old", "recent"]), ("0", [])]
)
async def test_the_first_start_publishes_events_within_the_look_back(
    cluster: ApiServer, streams: Bus, start_collector: Start, lookback: str, expected: list[str]
) -> None:
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    cluster.add("old", lastTimestamp=hour_ago, message="old")
    cluster.add("recent", message="recent")
    start_collector(KUBERNETES_EVENTS_LOOKBACK=lookback)
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.add("later", message="later")
    events = await wait_for_events(streams, len(expected) + 1)
    messages = [e.body.message for e in events if isinstance(e.body, KubernetesEvent)]
    assert messages == [*expected, "later"]
