"""A cluster restored from a backup, and another cluster at the same address."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import (
    ApiServer,
    error_answer,
)
from kubernetes_running import (
    RunningCollector,
    gaps,
    revisions,
    store_cursor,
    wait_for_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector import watch
from sematext_agent.shared.bus import Bus

Start = Callable[..., RunningCollector]


async def test_a_cursor_ahead_of_a_restored_cluster_is_replaced_by_a_list(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """A watch from a revision that is still to come would be silent for ever."""
    await store_cursor(streams, 5000, ago=30)
    cluster.add("old", lastTimestamp="2020-01-01T00:00:00Z")
    recent = cluster.add("recent")
    running = start_collector()
    events = await wait_for_events(streams, 2)
    assert revisions(events) == [recent]
    assert [gap.reason for gap in gaps(events)] == ["restored"]
    later = cluster.add("later")
    assert revisions(await wait_for_events(streams, 3)) == [recent, later]
    assert running.count("relists", reason="restored") == 1


async def test_a_restore_during_the_watch_is_detected(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.add("one")
    await wait_for_events(streams, 1)
    cluster.revision = 50
    cluster.history.clear()
    cluster.objects.clear()
    cluster.next_watch.append(error_answer(500))
    cluster.end_watches()
    await wait_until(lambda: running.count("relists", reason="restored") == 1)
    revision = cluster.add("two")
    assert revisions(await wait_for_events(streams, 3)) == [101, revision]


async def test_another_cluster_at_the_address_has_its_own_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    cluster.revision = 5000
    first = start_collector()
    await wait_for_cursor(streams, 5000)
    await first.stop()
    cluster.cluster_uid, cluster.revision = "99999999-0000-0000-0000-000000000000", 100
    cluster.add("old", lastTimestamp="2020-01-01T00:00:00Z")
    recent = cluster.add("recent")
    second = start_collector()
    assert revisions(await wait_for_events(streams, 1)) == [recent]
    assert second.count("relists", reason="first start") == 1


async def test_another_cluster_that_takes_over_the_address_ends_the_process(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.revision, cluster.cluster_uid = 5, "99999999-0000-0000-0000-000000000000"
    cluster.end_watches()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await running.task
    assert caught.value.subgroup(watch.ClusterReplaced) is not None
