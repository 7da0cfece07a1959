"""Watches that the server closes at once and empty, as Google's front end does after 410."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from itertools import pairwise

import pytest
from broker import wait_until
from kubernetes_api import (
    ApiServer,
    watch_answer,
)
from kubernetes_running import (
    RunningCollector,
    count_backoffs,
    revisions,
    store_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector import recovery
from sematext_agent.kubernetes_collector.events_resource import EventsResource
from sematext_agent.shared.bus import Bus

Start = Callable[..., RunningCollector]


async def test_the_second_short_watch_counts_as_410(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GKE: two watches that end at once, then a list, and never more than one in a second."""
    monkeypatch.setattr(recovery, "PACE_SECONDS", 0.2)
    begins: list[float] = []
    watch_lines = EventsResource.watch_lines

    def record(resource: EventsResource, revision: int) -> AsyncGenerator[list[bytes], None]:
        begins.append(asyncio.get_running_loop().time())
        return watch_lines(resource, revision)

    monkeypatch.setattr(EventsResource, "watch_lines", record)
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.add("one")
    await wait_for_events(streams, 1)
    lists = len(cluster.lists())
    cluster.next_watch.extend([watch_answer()] * 3)
    cluster.end_watches()
    await wait_until(lambda: len(cluster.lists()) == lists + 1)
    cluster.add("two")
    assert revisions(await wait_for_events(streams, 2)) == [101, 102]
    # The third close follows the list directly: the next list waits.
    await wait_until(lambda: len(cluster.watches()) == 5)
    assert min(b - a for a, b in pairwise(begins)) > 0.19
    assert running.count("short_watches") == 3


async def test_short_watches_without_end_are_retried_with_growing_backoff(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Lists that do not help must not become a loop of lists and watches."""
    waits = count_backoffs(monkeypatch)
    cluster.next_watch.extend([watch_answer()] * 7)
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 8)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    cluster.add("one")
    await wait_for_events(streams, 1)
    await wait_until(lambda: running.cluster.ok)


async def test_one_short_watch_from_an_old_cursor_counts_as_410(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    await store_cursor(streams, 100, ago=120)
    cluster.add("missed")
    cluster.next_watch.append(watch_answer())
    running = start_collector()
    assert revisions(await wait_for_events(streams, 1)) == [101]
    assert running.count("short_watches") == 1
    assert running.count("relists", reason="expired") == 1
