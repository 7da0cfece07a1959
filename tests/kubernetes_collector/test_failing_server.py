"""Refused, failing and silent requests: the pauses, and the events after them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import (
    ApiServer,
    Exchange,
    error_answer,
    watch_answer,
)
from kubernetes_running import (
    RunningCollector,
    count_backoffs,
    revisions,
    store_cursor,
    stored_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector import events_resource
from sematext_agent.shared.bus import Bus

Start = Callable[..., RunningCollector]


async def test_a_silent_watch_is_closed_at_its_deadline(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer holds the connection open whose server is gone: nothing arrives, not even an end.

    test_half_open.py has the same of a list.
    """
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (0.2, 0.2))
    cluster.next_watch.append(watch_answer(end=False))
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) >= 2, 5)
    waited = cluster.watches()[1].at - cluster.watches()[0].at
    assert 0.7 <= waited < 2.5
    cluster.add("one")
    await wait_for_events(streams, 1)
    assert running.count("api_failures", status="0") == 1


async def test_403_is_retried_until_the_right_is_granted(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    cluster.next_list.extend([error_answer(403)] * 2)
    running = start_collector()
    await wait_until(lambda: "403" in running.cluster.detail)
    assert not running.cluster.ok
    cluster.add("one")
    await wait_for_events(streams, 1)
    await wait_until(lambda: running.cluster.ok)
    assert cluster.lists()[2].at - cluster.lists()[0].at >= 0.2


async def test_429_waits_for_the_retry_after_time(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    cluster.next_watch.append(error_answer(429, Retry_After="1"))
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 2)
    assert cluster.watches()[1].at - cluster.watches()[0].at >= 1
    await wait_until(lambda: running.cluster.ok)


async def test_500_and_504_are_retried_with_growing_backoff(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The readiness changes, the backoff grows, nothing is lost."""
    waits = count_backoffs(monkeypatch)
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.next_watch.extend([error_answer(500), error_answer(504)] * 5)
    cluster.end_watches()
    await wait_until(lambda: not running.cluster.ok)
    cluster.add("one")
    await wait_for_events(streams, 1)
    await wait_until(lambda: running.cluster.ok)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert running.count("api_failures", status="500") == 5
    assert running.count("api_failures", status="504") == 5


async def test_an_unreachable_server_is_waited_for(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector()
    await wait_until(lambda: len(cluster.watches()) == 1)
    await cluster.stop()
    await wait_until(lambda: not running.cluster.ok)
    cluster.add("one")
    await cluster.start()
    assert revisions(await wait_for_events(streams, 1)) == [101]
    await wait_until(lambda: running.cluster.ok)


async def test_a_list_that_fails_twenty_times_keeps_the_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry loses its cursor when the list that replaces it fails."""
    monkeypatch.setattr(
        "sematext_agent.kubernetes_collector.retry_policy.Backoff.draw_delay_seconds",
        lambda _: 0.001,
    )
    await store_cursor(streams, 100, ago=1)
    cluster.add("one")
    cluster.compact()
    let_on = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await let_on.wait()
        await error_answer(500)(exchange)

    cluster.next_list.extend([*[error_answer(500)] * 19, held])
    running = start_collector()
    await wait_until(lambda: running.count("api_failures", status="500") == 19)
    place = await stored_cursor(streams)
    assert place is not None
    assert place.revision == 100
    let_on.set()
    assert revisions(await wait_for_events(streams, 1)) == [101]
    assert running.count("relists") == 1
