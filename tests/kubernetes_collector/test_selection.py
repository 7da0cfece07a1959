"""Filters, and the interval of repeats, whose last one is always published."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes_api import ApiServer
from kubernetes_running import (
    RunningCollector,
    published_events,
    revisions,
    stored_cursor,
    wait_for_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector.filters import EventFilters
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import KubernetesEvent
from sematext_agent.shared.settings import load_settings

Start = Callable[..., RunningCollector]
PREFIX = "KUBERNETES_EVENTS_"


def body(**fields: Any) -> KubernetesEvent:
    defaults: dict[str, Any] = {
        "uid": "u",
        "resource_version": "1",
        "kind": "Pod",
        "namespace": "prod-eu",
        "reason": "FailedMount",
        "type": "Warning",
        "count": 2,
    }
    return KubernetesEvent(**(defaults | fields))


@pytest.mark.parametrize(
    ("variable", "value", "fields", "filter_name"),
    [
        ("EXCLUDED", "", {}, ""),
        ("EXCLUDED", "Job,pod", {}, "kind"),
        ("EXCLUDED", "Job", {}, ""),
        ("NAMESPACES_EXCLUDED", "kube-*,prod-*", {}, "namespace"),
        ("NAMESPACES_EXCLUDED", "kube-*", {}, ""),
        ("NAMESPACES_INCLUDED", "prod-*", {}, ""),
        ("NAMESPACES_INCLUDED", "prod-us,test", {}, "namespace"),
        ("NAMESPACES_INCLUDED", "prod-*", {"namespace": ""}, "namespace"),
        ("NAMESPACES_INCLUDED", "*", {"namespace": ""}, ""),
        ("TYPES", "warning", {}, ""),
        ("TYPES", "Warning", {"type": "Normal"}, "type"),
        ("REASONS_EXCLUDED", "Failed*", {}, "reason"),
        ("REASONS_INCLUDED", "Failed*,BackOff", {}, ""),
        ("REASONS_INCLUDED", "BackOff", {}, "reason"),
        ("MIN_COUNT", "3", {}, "count"),
        ("MIN_COUNT", "2", {}, ""),
    ],
)
def test_each_filter_excludes_the_events_it_names(
    variable: str, value: str, fields: dict[str, Any], filter_name: str
) -> None:
    settings = load_settings(KubernetesSettings, {PREFIX + variable: value})
    assert EventFilters(settings).find_exclusion(body(**fields)) == filter_name


async def test_an_excluded_event_moves_the_cursor_and_is_counted(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector(KUBERNETES_EVENTS_TYPES="Normal")
    cluster.add("warning")
    normal = cluster.add("normal", type="Normal")
    last = cluster.add("another")
    assert revisions(await wait_for_events(streams, 1)) == [normal]
    assert (await wait_for_cursor(streams, last)).revision == last
    assert running.count("events_filtered", filter="type") == 2


async def test_repeats_are_published_at_most_once_in_the_interval_and_the_last_always(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    start_collector(KUBERNETES_EVENTS_INTERVAL="400ms")
    first = cluster.add("loop")
    await wait_for_events(streams, 1)
    for count in range(2, 20):
        cluster.add("loop", count=count)
        last_other = cluster.add(f"other{count}")
    last = cluster.add("loop", count=20)
    events = await wait_for_events(streams, 1 + 18 + 1)
    loop_counts = [e.body.count for e in events if isinstance(e.body, KubernetesEvent)]
    assert loop_counts.count(1) == 19
    assert revisions(events)[-1] == last
    assert revisions(events)[0] == first
    assert last_other in revisions(events)


async def test_the_cursor_stays_before_a_held_repeat_and_a_kill_does_not_lose_it(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    first = start_collector(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await wait_for_events(streams, 1)
    waiting = cluster.add("loop", count=2)
    cluster.add("other")
    await wait_for_events(streams, 2)
    await wait_for_cursor(streams, waiting - 1)
    await asyncio.sleep(0.3)  # longer than the runner waits between two cursors
    place = await stored_cursor(streams)
    assert place is not None
    assert place.revision == waiting - 1
    await first.kill()
    start_collector()
    assert revisions(await wait_for_events(streams, 3)) == [101, 103, 102]


async def test_a_stop_publishes_held_repeats(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await wait_for_events(streams, 1)
    cluster.add("loop", count=2)
    last = cluster.add("loop", count=3)
    running.health.report()
    async with asyncio.timeout(5):
        while running.count("events_filtered", filter="interval") < 2:
            await asyncio.sleep(0.01)
    await running.stop()
    assert revisions(await published_events(streams)) == [101, last]
    assert (await wait_for_cursor(streams, last)).revision == last


async def test_a_newer_revision_in_a_list_replaces_a_held_repeat(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await wait_for_events(streams, 1)
    cluster.add("loop", count=2)
    async with asyncio.timeout(5):
        while running.count("events_filtered", filter="interval") < 1:
            await asyncio.sleep(0.01)
    await cluster.stop()
    newest = cluster.add("loop", count=3)
    cluster.compact()
    await cluster.start()
    events = await wait_for_events(streams, 3)  # with the gap
    assert revisions(events) == [101, newest]
    await running.stop()
    assert len(await published_events(streams)) == 3
