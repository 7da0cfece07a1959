"""The lease: one of several replicas is active, and two that are for a moment do no harm."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from broker import wait_until
from kubernetes_api import ApiServer, Exchange, error_answer
from kubernetes_running import (
    RunningCollector,
    published_events,
    revisions,
    store_cursor,
    wait_for_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector import lease
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.cursors import CursorConflict

Start = Callable[..., RunningCollector]
StartProcess = Callable[..., Awaitable[Process]]
NAME = "sematext/kubernetes-collector"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.6)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.1)


def holder(cluster: ApiServer) -> str:
    lease_object = cluster.leases.get("kubernetes-collector", {"spec": {}})
    return str(lease_object["spec"].get("holderIdentity", ""))


def steal(cluster: ApiServer, thief: str) -> None:
    cluster.revision += 1
    lease_object = cluster.leases["kubernetes-collector"]
    lease_object["spec"]["holderIdentity"] = thief
    lease_object["metadata"]["resourceVersion"] = str(cluster.revision)


async def outcome(start_collector: RunningCollector) -> BaseException | None:
    """Return the error with which the collector's process would have ended."""
    async with asyncio.timeout(5):
        await asyncio.wait([start_collector.task])
    return start_collector.task.exception()


def details(replicas: list[RunningCollector]) -> list[str]:
    """Return the first word of each replica's condition `lease`."""
    return [detail(replica).partition(":")[0] for replica in replicas]


def detail(start_collector: RunningCollector) -> str:
    condition = start_collector.health.report().conditions.get("lease")
    return condition.detail if condition else ""


async def test_a_standby_takes_over_when_the_active_replica_stops(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    first = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)
    second = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: "standby" in detail(second))
    assert detail(first) == "active"
    cluster.add("one")
    await wait_for_events(streams, 1)
    await asyncio.sleep(1.2)  # longer than the lease: it is being renewed
    assert len(cluster.watches()) == 1
    await first.stop()
    await wait_until(lambda: detail(second) == "active", 0.8)  # given back, not run out
    cluster.add("two")
    expected = [cluster.revision_of("one"), cluster.revision_of("two")]
    assert revisions(await wait_for_events(streams, 2)) == expected
    assert second.count("events_duplicate") == 0  # it went on from the place of the first


async def test_a_killed_holder_is_replaced_when_its_lease_has_run_out(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)
    second = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: "standby" in detail(second))

    async def nothing(_: lease.Lease) -> None:
        """Release nothing, as a killed process does."""

    monkeypatch.setattr(lease.Lease, "release", nothing)
    await first.kill()
    began = asyncio.get_running_loop().time()
    cluster.add("one")
    await wait_for_events(streams, 1)
    assert asyncio.get_running_loop().time() - began > 0.5
    assert detail(second) == "active"


async def test_a_stolen_lease_ends_the_holder_at_once(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)
    steal(cluster, "thief")
    error = await outcome(running)
    assert isinstance(error, BaseExceptionGroup)
    lost = error.subgroup(lease.LeaseLost)
    assert lost is not None
    assert "taken by thief" in str(lost.exceptions)
    assert holder(cluster) == "thief"


async def test_a_lease_that_cannot_be_renewed_ends_the_holder_before_another_may_take_it(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """The server does not answer at all: the request itself must not outlast the lease."""
    running = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)

    async def silent(exchange: Exchange) -> None:
        await asyncio.sleep(3600)

    cluster.answer_all = silent
    began = asyncio.get_running_loop().time()
    error = await outcome(running)
    assert isinstance(error, BaseExceptionGroup)
    assert error.subgroup(lease.LeaseLost) is not None
    assert asyncio.get_running_loop().time() - began < 1.0


async def test_the_lease_is_kept_over_a_few_failures(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    running = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)
    cluster.answer_all = error_answer(500)
    await asyncio.sleep(0.3)
    cluster.answer_all = None
    cluster.add("one")
    await wait_for_events(streams, 1)
    assert not running.task.done()


async def test_a_wrong_wall_clock_does_not_move_the_lease(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """The times in the record are never compared with ours: only that they change."""
    first = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)

    async def old_times(exchange: Exchange) -> None:
        lease_object = cluster.leases.get("kubernetes-collector")
        if lease_object is not None:
            lease_object["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z"
        cluster.answer_all = None
        await cluster._answer(exchange)
        cluster.answer_all = old_times

    cluster.answer_all = old_times
    second = start_collector(KUBERNETES_LEASE=NAME)
    await asyncio.sleep(1.5)
    assert detail(first) == "active"
    assert "standby" in detail(second)


async def test_two_replicas_that_start_at_once_share_one_lease(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    replicas = [start_collector(KUBERNETES_LEASE=NAME) for _ in range(2)]
    await wait_until(lambda: sorted(details(replicas)) == ["active", "standby"])
    assert len(cluster.watches()) <= 1


async def test_two_replicas_that_write_an_abandoned_lease_at_once_leave_one_active(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """Both have read that it is free before either writes."""
    spec = {"holderIdentity": "", "leaseTransitions": 3}
    meta = {"name": "kubernetes-collector", "namespace": "sematext", "resourceVersion": "7"}
    cluster.leases["kubernetes-collector"] = {"metadata": meta, "spec": spec}
    answer, read = cluster._lease, asyncio.Barrier(2)

    async def together(exchange: Exchange) -> None:
        first = exchange.method == "GET" and holder(cluster) == ""
        await answer(exchange) if not first else await asyncio.gather(answer(exchange), read.wait())

    cluster._lease = together  # type: ignore[method-assign]
    replicas = [start_collector(KUBERNETES_LEASE=NAME) for _ in range(2)]
    await wait_until(lambda: sorted(details(replicas)) == ["active", "standby"])
    assert cluster.leases["kubernetes-collector"]["spec"]["leaseTransitions"] == 4


async def test_a_forbidden_lease_makes_unready_until_it_is_granted(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    async def forbid(exchange: Exchange) -> None:
        if "/leases" in exchange.path:
            await error_answer(403)(exchange)
        else:
            cluster.answer_all = None
            await cluster._answer(exchange)
            cluster.answer_all = forbid

    cluster.answer_all = forbid
    running = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: "403" in detail(running))
    assert not running.health.report().ready
    cluster.answer_all = None
    await wait_until(lambda: detail(running) == "active")


async def test_two_active_replicas_store_each_event_once_and_one_ends(
    cluster: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cursor decides who goes on; here it is held until both have published."""
    replace, published = streams.replace, asyncio.Event()

    async def held(*stored: Any) -> int:
        await published.wait()
        return await replace(*stored)

    monkeypatch.setattr(streams, "replace", held)
    replicas = [start_collector() for _ in range(2)]
    await wait_until(lambda: len(cluster.watches()) == 2)
    for number in range(200):
        cluster.add(f"e{number}")
    await wait_until(lambda: sum(replica.count("events_published") for replica in replicas) == 400)
    assert revisions(await published_events(streams)) == list(range(101, 301))
    assert sum(replica.count("events_duplicate") for replica in replicas) == 200
    published.set()
    async with asyncio.timeout(10):
        ended, _ = await asyncio.wait(
            [replica.task for replica in replicas], return_when=asyncio.FIRST_COMPLETED
        )
    (fault,) = (replica.exception() for replica in ended)
    assert isinstance(fault, BaseExceptionGroup)
    assert fault.subgroup(CursorConflict) is not None
    cluster.add("later")
    await wait_for_cursor(streams, 301)
    assert len(await published_events(streams)) == 201


async def test_a_resumed_replica_does_not_overwrite_its_successors_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start, process: StartProcess
) -> None:
    """It was suspended with a place that was not stored yet, and stores it when it is stopped."""
    # As if all of the time between two looks at the lease, and two cursors, were in that moment.
    prelude = (
        "from sematext_agent.kubernetes_collector import lease; "
        "from sematext_agent.shared import collector; "
        "lease.RETRY_SECONDS = collector._CURSOR_SECONDS_MIN = 3600.0; lease.LEASE_SECONDS = 1.0"
    )
    go_on = asyncio.Event()

    async def watched(exchange: Exchange) -> None:
        """Of what comes after that, the suspended one hears nothing."""
        await exchange.head()
        await exchange.frame("ADDED", cluster.objects["one"])
        await go_on.wait()
        await exchange.frame("ADDED", cluster.objects["two"])
        await asyncio.sleep(3600)

    await store_cursor(streams, 100)
    first = cluster.add("one")
    cluster.next_watch.append(watched)
    suspended = await process(prelude, KUBERNETES_LEASE=NAME)
    await wait_for_cursor(streams, first)
    two = cluster.add("two")
    go_on.set()
    await wait_for_events(streams, 2)
    suspended.send_signal(signal.SIGSTOP)
    successor = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: detail(successor) == "active", 30)
    three = cluster.add("three")
    await wait_for_cursor(streams, three)
    suspended.send_signal(signal.SIGCONT)
    suspended.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        _, errors = await suspended.communicate()
    assert (await wait_for_cursor(streams, 0)).revision == three
    assert suspended.returncode == 1
    assert "restart requested: another process stored" in errors.decode().splitlines()[-1]
    four = cluster.add("four")
    await wait_for_cursor(streams, four)
    assert revisions(await published_events(streams)) == [first, two, three, four]


async def test_the_stop_of_a_standby_leaves_the_lease_alone(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: len(cluster.watches()) == 1)
    active = holder(cluster)
    second = start_collector(KUBERNETES_LEASE=NAME)
    await wait_until(lambda: "standby" in detail(second))
    with contextlib.suppress(asyncio.CancelledError):
        await second.stop()
    assert holder(cluster) == active
