"""Filters, and the interval of repeats with its trailing edge."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest
from kubernetes_api import ApiServer
from kubernetes_running import Collecting, revisions, stored_place, told, until_stored, until_told

from sematext_agent.kubernetes_collector.filters import EventFilters
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import KubernetesEvent
from sematext_agent.shared.settings import load_settings

Start = Callable[..., Collecting]
PREFIX = "KUBERNETES_EVENTS_"


def body(**fields: Any) -> KubernetesEvent:
    known: dict[str, Any] = {
        "uid": "u",
        "resource_version": "1",
        "kind": "Pod",
        "namespace": "prod-eu",
        "reason": "FailedMount",
        "type": "Warning",
        "count": 2,
    }
    return KubernetesEvent(**(known | fields))


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
def test_a_filter_leaves_out_what_it_names(
    variable: str, value: str, fields: dict[str, Any], filter_name: str
) -> None:
    settings = load_settings(KubernetesSettings, {PREFIX + variable: value})
    assert EventFilters(settings).find_exclusion(body(**fields)) == filter_name


async def test_what_is_filtered_moves_the_place_and_is_counted(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting(KUBERNETES_EVENTS_TYPES="Normal")
    cluster.add("warning")
    normal = cluster.add("normal", type="Normal")
    last = cluster.add("another")
    assert revisions(await until_told(streams, 1)) == [normal]
    assert (await until_stored(streams, last)).revision == last
    assert running.count("events_filtered", filter="type") == 2


async def test_repeats_are_told_at_most_once_in_the_interval_and_the_last_always(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    collecting(KUBERNETES_EVENTS_INTERVAL="400ms")
    first = cluster.add("loop")
    await until_told(streams, 1)
    for count in range(2, 20):
        cluster.add("loop", count=count)
        other = cluster.add(f"other{count}")
    last = cluster.add("loop", count=20)
    events = await until_told(streams, 1 + 18 + 1)
    told_of_loop = [e.body.count for e in events if isinstance(e.body, KubernetesEvent)]
    assert told_of_loop.count(1) == 19
    assert revisions(events)[-1] == last
    assert revisions(events)[0] == first
    assert other in revisions(events)


async def test_the_place_does_not_pass_a_repeat_that_waits_and_a_kill_does_not_lose_it(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    first = collecting(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await until_told(streams, 1)
    waiting = cluster.add("loop", count=2)
    cluster.add("other")
    await until_told(streams, 2)
    await until_stored(streams, waiting - 1)
    await asyncio.sleep(0.3)  # longer than the runner waits between two cursors
    place = await stored_place(streams)
    assert place is not None
    assert place.revision == waiting - 1
    await first.kill()
    collecting()
    assert revisions(await until_told(streams, 3)) == [101, 103, 102]


async def test_a_stop_tells_the_repeats_that_wait(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await until_told(streams, 1)
    cluster.add("loop", count=2)
    last = cluster.add("loop", count=3)
    running.health.report()
    async with asyncio.timeout(5):
        while running.count("events_filtered", filter="interval") < 2:
            await asyncio.sleep(0.01)
    await running.stop()
    assert revisions(await told(streams)) == [101, last]
    assert (await until_stored(streams, last)).revision == last


async def test_a_newer_telling_by_a_list_replaces_the_repeat_that_waits(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting(KUBERNETES_EVENTS_INTERVAL="1h")
    cluster.add("loop")
    await until_told(streams, 1)
    cluster.add("loop", count=2)
    async with asyncio.timeout(5):
        while running.count("events_filtered", filter="interval") < 1:
            await asyncio.sleep(0.01)
    await cluster.stop()
    newest = cluster.add("loop", count=3)
    cluster.compact()
    await cluster.start()
    events = await until_told(streams, 3)  # with the gap
    assert revisions(events) == [101, newest]
    await running.stop()
    assert len(await told(streams)) == 3
