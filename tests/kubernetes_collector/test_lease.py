"""One of several replicas is at work; and when two are for a moment, each event is stored once."""

from __future__ import annotations

import asyncio
import contextlib
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
from broker import eventually
from kubernetes_api import ApiServer, Exchange, fails
from kubernetes_running import (
    Collecting,
    revisions,
    store_place,
    told,
    until_stored,
    until_told,
)

from sematext_agent.kubernetes_collector import lease
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.cursors import CursorConflict

Start = Callable[..., Collecting]
StartProcess = Callable[..., Awaitable[Process]]
NAME = "sematext/kubernetes-collector"


@pytest.fixture(autouse=True)
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LEASE_SECONDS", 1.0)
    monkeypatch.setattr(lease, "RENEW_SECONDS", 0.6)
    monkeypatch.setattr(lease, "RETRY_SECONDS", 0.1)


def holder(cluster: ApiServer) -> str:
    found = cluster.leases.get("kubernetes-collector", {"spec": {}})
    return str(found["spec"].get("holderIdentity", ""))


def steal(cluster: ApiServer, thief: str) -> None:
    cluster.revision += 1
    found = cluster.leases["kubernetes-collector"]
    found["spec"]["holderIdentity"] = thief
    found["metadata"]["resourceVersion"] = str(cluster.revision)


async def outcome(collecting: Collecting) -> BaseException | None:
    """How the collector's process would have ended."""
    async with asyncio.timeout(5):
        await asyncio.wait([collecting.task])
    return collecting.task.exception()


def detail(collecting: Collecting) -> str:
    condition = collecting.health.report().conditions.get("lease")
    return condition.detail if condition else ""


async def test_one_is_active_the_other_stands_by_and_takes_over_at_the_stop(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    first = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)
    second = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: "standby" in detail(second))
    assert detail(first) == "active"
    cluster.add("one")
    await until_told(streams, 1)
    await asyncio.sleep(1.2)  # longer than the lease: it is being renewed
    assert len(cluster.watches()) == 1
    await first.stop()
    await eventually(lambda: detail(second) == "active", 0.8)  # given back, not run out
    cluster.add("two")
    expected = [cluster.revision_of("one"), cluster.revision_of("two")]
    assert revisions(await until_told(streams, 2)) == expected
    assert second.count("events_duplicate") == 0  # it went on from the place of the first


async def test_a_killed_holder_is_replaced_when_its_lease_has_run_out(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)
    second = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: "standby" in detail(second))

    async def nothing(_: lease.Lease) -> None:
        """A killed process gives nothing back."""

    monkeypatch.setattr(lease.Lease, "release", nothing)
    await first.kill()
    began = asyncio.get_running_loop().time()
    cluster.add("one")
    await until_told(streams, 1)
    assert asyncio.get_running_loop().time() - began > 0.5
    assert detail(second) == "active"


async def test_a_stolen_lease_ends_the_holder_at_once(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)
    steal(cluster, "thief")
    error = await outcome(running)
    assert isinstance(error, BaseExceptionGroup)
    lost = error.subgroup(lease.LeaseLost)
    assert lost is not None
    assert "taken by thief" in str(lost.exceptions)
    assert holder(cluster) == "thief"


async def test_a_lease_that_cannot_be_renewed_ends_the_holder_before_another_may_take_it(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """The server does not answer at all: the request itself must not outlast the lease."""
    running = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)

    async def silent(exchange: Exchange) -> None:
        await asyncio.sleep(3600)

    cluster.always = silent
    began = asyncio.get_running_loop().time()
    error = await outcome(running)
    assert isinstance(error, BaseExceptionGroup)
    assert error.subgroup(lease.LeaseLost) is not None
    assert asyncio.get_running_loop().time() - began < 1.0


async def test_the_lease_is_kept_over_a_few_failures(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.always = fails(500)
    await asyncio.sleep(0.3)
    cluster.always = None
    cluster.add("one")
    await until_told(streams, 1)
    assert not running.task.done()


async def test_a_clock_that_is_wrong_by_hours_gives_nobody_the_lease(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """The times in the record are never compared with ours: only that they change."""
    first = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)

    async def old_times(exchange: Exchange) -> None:
        found = cluster.leases.get("kubernetes-collector")
        if found is not None:
            found["spec"]["renewTime"] = "2001-01-01T00:00:00.000000Z"
        cluster.always = None
        await cluster._answer(exchange)
        cluster.always = old_times

    cluster.always = old_times
    second = collecting(KUBERNETES_LEASE=NAME)
    await asyncio.sleep(1.5)
    assert detail(first) == "active"
    assert "standby" in detail(second)


async def test_of_two_that_take_it_at_once_one_is_refused(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    both = [collecting(KUBERNETES_LEASE=NAME) for _ in range(2)]
    await eventually(lambda: sorted(detail(one)[:7] for one in both) == ["active", "standby"])
    assert len(cluster.watches()) <= 1


async def test_of_two_that_take_an_abandoned_lease_at_once_one_is_refused(
    cluster: ApiServer, streams: Bus, collecting: Start
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
    both = [collecting(KUBERNETES_LEASE=NAME) for _ in range(2)]
    await eventually(lambda: sorted(detail(one)[:7] for one in both) == ["active", "standby"])
    assert cluster.leases["kubernetes-collector"]["spec"]["leaseTransitions"] == 4


async def test_a_forbidden_lease_is_said_and_waited_for(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    async def forbid(exchange: Exchange) -> None:
        if "/leases" in exchange.path:
            await fails(403)(exchange)
        else:
            cluster.always = None
            await cluster._answer(exchange)
            cluster.always = forbid

    cluster.always = forbid
    running = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: "403" in detail(running))
    assert not running.health.report().ready
    cluster.always = None
    await eventually(lambda: detail(running) == "active")


async def test_two_at_work_without_a_lease_store_each_event_once_and_one_ends(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first cursor decides who goes on; here it is held until both have published."""
    replace, published = streams.replace, asyncio.Event()

    async def held(*stored: Any) -> int:
        await published.wait()
        return await replace(*stored)

    monkeypatch.setattr(streams, "replace", held)
    both = [collecting() for _ in range(2)]
    await eventually(lambda: len(cluster.watches()) == 2)
    for number in range(200):
        cluster.add(f"e{number}")
    await eventually(lambda: sum(one.count("events_published") for one in both) == 400)
    assert revisions(await told(streams)) == list(range(101, 301))
    assert sum(one.count("events_duplicate") for one in both) == 200
    published.set()
    async with asyncio.timeout(10):
        ended, _ = await asyncio.wait(
            [one.task for one in both], return_when=asyncio.FIRST_COMPLETED
        )
    (fault,) = (one.exception() for one in ended)
    assert isinstance(fault, BaseExceptionGroup)
    assert fault.subgroup(CursorConflict) is not None
    cluster.add("later")
    await until_stored(streams, 301)
    assert len(await told(streams)) == 201


async def test_one_that_wakes_up_beside_its_successor_does_not_put_its_older_place_back(
    cluster: ApiServer, streams: Bus, collecting: Start, process: StartProcess
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

    await store_place(streams, 100)
    one = cluster.add("one")
    cluster.next_watch.append(watched)
    suspended = await process(prelude, KUBERNETES_LEASE=NAME)
    await until_stored(streams, one)
    two = cluster.add("two")
    go_on.set()
    await until_told(streams, 2)
    suspended.send_signal(signal.SIGSTOP)
    successor = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: detail(successor) == "active", 30)
    three = cluster.add("three")
    await until_stored(streams, three)
    suspended.send_signal(signal.SIGCONT)
    suspended.send_signal(signal.SIGTERM)
    async with asyncio.timeout(30):
        _, errors = await suspended.communicate()
    assert (await until_stored(streams, 0)).revision == three
    assert suspended.returncode == 1
    assert "restart requested: another process stored" in errors.decode().splitlines()[-1]
    four = cluster.add("four")
    await until_stored(streams, four)
    assert revisions(await told(streams)) == [one, two, three, four]


async def test_a_stop_while_standing_by_leaves_the_lease_alone(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: len(cluster.watches()) == 1)
    active = holder(cluster)
    second = collecting(KUBERNETES_LEASE=NAME)
    await eventually(lambda: "standby" in detail(second))
    with contextlib.suppress(asyncio.CancelledError):
        await second.stop()
    assert holder(cluster) == active
