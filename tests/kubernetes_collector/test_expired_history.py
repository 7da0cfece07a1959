"""A cursor that the cluster has forgotten: 410 in each of its forms, and the list after it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import (
    EXPIRED,
    ApiServer,
    Exchange,
)
from kubernetes_running import (
    RunningCollector,
    gaps,
    published_events,
    revisions,
    store_cursor,
    stored_cursor,
    wait_for_cursor,
    wait_for_events,
    wait_for_watches,
)

from sematext_agent.kubernetes_collector import events_resource, watch
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.retry import Backoff

Start = Callable[..., RunningCollector]


async def expired_frame(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.frame("ERROR", EXPIRED)
    await exchange.end()


async def expired_status(exchange: Exchange) -> None:
    await exchange.json(410, EXPIRED)


async def expired_error_500(exchange: Exchange) -> None:
    """Answer as some aggregated servers do: the reason is right, the code is not."""
    await exchange.head()
    await exchange.frame("ERROR", EXPIRED | {"code": 500})
    await exchange.end()


@pytest.mark.parametrize("answer", [expired_frame, expired_status, expired_error_500])
async def test_after_410_only_newer_events_are_published(
    cluster: ApiServer, streams: Bus, start_collector: Start, answer: Callable[..., object]
) -> None:
    for number in range(3):
        cluster.add(f"old{number}")
    running = start_collector()
    await wait_for_cursor(streams, 103)
    await running.stop()
    new = [cluster.add("new"), cluster.add("old1", count=2)]
    cluster.compact()
    cluster.next_watch.append(answer)  # type: ignore[arg-type]
    before = len(cluster.watches())
    again = start_collector()
    events = await wait_for_events(streams, 6)
    assert set(revisions(events)) == {101, 102, 103, *new}
    (gap,) = gaps(events)
    assert gap.reason == "expired"
    assert gap.detail.endswith("of 1 events that repeated only the last repeat is known")
    assert again.count("events_published", kind="KubernetesEvent") == 2
    assert again.count("relists", reason="expired") == 1
    assert (await wait_for_cursor(streams, cluster.revision)).revision == cluster.revision
    # At once: the expired cursor is requested once.
    await wait_until(lambda: len(cluster.watches()) == before + 2)
    places = [int(watch.params["resourceVersion"]) for watch in cluster.watches()[before:]]
    assert places == [103, cluster.revision]


@pytest.mark.parametrize("token", ["", "100000.500"])
async def test_410_during_a_list_continues_or_restarts_it(
    cluster: ApiServer, streams: Bus, start_collector: Start, token: str
) -> None:
    """The server's token continues the list in a newer state; without it, the list begins anew."""
    for number in range(1200):
        cluster.add(f"e{number}")

    async def expire(exchange: Exchange) -> None:
        cluster.add("meanwhile")
        await exchange.json(410, EXPIRED | {"metadata": {"continue": token}})

    cluster.next_list.extend([cluster._list, expire])
    running = start_collector()
    events = await wait_for_events(streams, 1201)
    assert set(revisions(events)) == set(range(101, 1302))
    assert [request.params["limit"] for request in cluster.lists()[:3]] == ["500", "500", "1000"]
    assert cluster.lists()[2].params.get("continue", "") == token
    await wait_until(lambda: len(cluster.watches()) == 1)
    # What the newer state shows is published again by the watch, and stored once.
    assert int(cluster.watches()[0].params["resourceVersion"]) == 1300
    await wait_until(lambda: running.count("events_duplicate") == (1 if token else 501))
    assert running.cluster.ok


async def test_410_to_every_list_is_retried_with_backoff(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add("one")
    monkeypatch.setattr(Backoff, "draw_delay_seconds", lambda _: 0.05)
    with monkeypatch.context() as broken:
        broken.setattr(cluster, "_list", expired_status)
        running = start_collector()
        await wait_until(lambda: running.count("api_failures", status="410") >= 4)
        # Each but the first was followed by a pause, and the first is retried at once.
        assert len(cluster.lists()) <= running.count("api_failures", status="410") + 2
        assert not running.cluster.ok
    await wait_for_events(streams, 1)
    await wait_until(lambda: running.cluster.ok)


async def test_410_to_every_second_page_is_retried_with_backoff(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list begins anew each time, and its first page arrives: it must not become a loop."""
    waits: list[float] = []

    async def pause(_: RetryPolicy, seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(3600 if len(waits) == 4 else 0)

    monkeypatch.setattr(events_resource, "PAGE_ITEMS_MAX", 500)
    for number in range(600):
        cluster.add(f"e{number}")
    cluster.next_list.extend([cluster._list, expired_status] * 5)
    monkeypatch.setattr(RetryPolicy, "pause", pause)
    running = start_collector()
    await wait_until(lambda: len(waits) == 4)
    # The first retry is immediate.
    assert len(cluster.lists()) == 10
    assert not running.cluster.ok
    assert await stored_cursor(streams) is None
    await running.kill()


async def test_a_quiet_namespace_whose_cursor_expires_stays_ready(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens there for half an hour, while the rest of the cluster moves on."""
    monkeypatch.setattr(watch, "SHORT_SECONDS", 0)
    cluster.add("one")
    running = start_collector(KUBERNETES_EVENTS_NAMESPACE="default")
    await wait_for_events(streams, 1)
    for _ in range(6):
        watches = len(cluster.watches())
        cluster.revision += 1000
        cluster.compact()
        cluster.end_watches()
        await wait_for_watches(cluster, watches + 2)
        assert running.cluster.ok
    assert running.count("relists", reason="expired") == 6
    assert running.count("api_failures") == 0  # which would have made it unready for a while
    assert len(await published_events(streams)) == 1  # and no gap: nothing can be missing
    assert cluster.watches()[-1].path == "/api/v1/namespaces/default/events"


async def test_a_long_absence_is_published_as_a_gap(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    await store_cursor(streams, 100, ago=70 * 60)
    cluster.add("one")
    cluster.compact()
    start_collector()
    (gap,) = gaps(await wait_for_events(streams, 2))
    assert gap.source == "kubernetes"
    assert gap.since < gap.until
    assert gap.detail == "4200 s were not watched: events that lived only then are missing"
