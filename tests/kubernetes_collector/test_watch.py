"""Every way to lose the place in a cluster's history, and that none loses or repeats an event.

The API server is scripted, the broker is real.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import pairwise

import pytest
from broker import eventually
from kubernetes_api import EXPIRED, ApiServer, Exchange, a_line, an_event, fails, tells
from kubernetes_running import (
    Collecting,
    gaps,
    revisions,
    store_place,
    stored_place,
    told,
    until_stored,
    until_told,
)

from sematext_agent.kubernetes_collector import events_resource, recovery, watch
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import KubernetesEvent

Start = Callable[..., Collecting]


def revision_of(name: str, revision: int, **fields: object) -> dict[str, object]:
    event = an_event(name, **fields)
    return event | {"metadata": event["metadata"] | {"resourceVersion": str(revision)}}


async def test_what_is_there_and_what_happens_is_told_once(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    first = cluster.add("one")
    running = collecting()
    await until_told(streams, 1)
    second = cluster.add("two")
    repeat = cluster.add("one", count=2)
    events = await until_told(streams, 3)
    assert revisions(events) == [first, second, repeat]
    assert [e.body.count for e in events if isinstance(e.body, KubernetesEvent)] == [1, 1, 2]
    assert all(event.origin == "prod" for event in events)
    await running.stop()
    assert (await until_stored(streams, repeat)).revision == repeat


async def test_the_server_ends_the_watch_in_time_and_it_goes_on_from_the_place(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    for number in range(5):
        cluster.add(f"e{number}")
        await until_told(streams, number + 1)
        cluster.end_watches()
        await eventually(lambda n=number: len(cluster.watches()) == n + 2)
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


async def expired_frame(exchange: Exchange) -> None:
    await exchange.head()
    await exchange.frame("ERROR", EXPIRED)
    await exchange.end()


async def expired_status(exchange: Exchange) -> None:
    await exchange.json(410, EXPIRED)


async def expired_error_500(exchange: Exchange) -> None:
    """As some aggregated servers say it: the reason is right, the code is not."""
    await exchange.head()
    await exchange.frame("ERROR", EXPIRED | {"code": 500})
    await exchange.end()


@pytest.mark.parametrize("answer", [expired_frame, expired_status, expired_error_500])
async def test_410_lists_and_tells_only_what_is_new(
    cluster: ApiServer, streams: Bus, collecting: Start, answer: Callable[..., object]
) -> None:
    for number in range(3):
        cluster.add(f"old{number}")
    running = collecting()
    await until_stored(streams, 103)
    await running.stop()
    new = [cluster.add("new"), cluster.add("old1", count=2)]
    cluster.compact()
    cluster.next_watch.append(answer)  # type: ignore[arg-type]
    before = len(cluster.watches())
    again = collecting()
    events = await until_told(streams, 6)
    assert set(revisions(events)) == {101, 102, 103, *new}
    (gap,) = gaps(events)
    assert gap.reason == "expired"
    assert gap.detail.endswith("of 1 events that repeated only the last repeat is known")
    assert again.count("events_published", kind="KubernetesEvent") == 2
    assert again.count("relists", reason="expired") == 1
    assert (await until_stored(streams, cluster.revision)).revision == cluster.revision
    # At once: the forgotten place is asked for once.
    await eventually(lambda: len(cluster.watches()) == before + 2)
    places = [int(watch.params["resourceVersion"]) for watch in cluster.watches()[before:]]
    assert places == [103, cluster.revision]


@pytest.mark.parametrize("token", ["", "100000.500"])
async def test_410_while_the_list_is_read(
    cluster: ApiServer, streams: Bus, collecting: Start, token: str
) -> None:
    """With the server's token for a newer state it goes on; without, the list begins anew."""
    for number in range(1200):
        cluster.add(f"e{number}")

    async def expire(exchange: Exchange) -> None:
        cluster.add("meanwhile")
        await exchange.json(410, EXPIRED | {"metadata": {"continue": token}})

    cluster.next_list.extend([cluster._list, expire])
    running = collecting()
    events = await until_told(streams, 1201)
    assert set(revisions(events)) == set(range(101, 1302))
    assert [request.params["limit"] for request in cluster.lists()[:3]] == ["500", "500", "1000"]
    assert cluster.lists()[2].params.get("continue", "") == token
    await eventually(lambda: len(cluster.watches()) == 1)
    # What the newer state shows is told again by the watch, and stored once.
    assert int(cluster.watches()[0].params["resourceVersion"]) == 1300
    await eventually(lambda: running.count("events_duplicate") == (1 if token else 501))
    assert running.cluster.ok


async def test_a_server_that_says_410_to_every_list_is_asked_with_pauses(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster.add("one")
    with monkeypatch.context() as broken:
        broken.setattr(cluster, "_list", expired_status)
        running = collecting()
        await eventually(lambda: running.count("api_failures", status="410") >= 4)
        # Each but the first was followed by a pause, and the first asks anew at once.
        assert len(cluster.lists()) <= running.count("api_failures", status="410") + 2
        assert not running.cluster.ok
    await until_told(streams, 1)
    await eventually(lambda: running.cluster.ok)


async def test_a_server_that_says_410_to_every_second_page_is_asked_with_pauses(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The list begins anew each time, and its first page comes: it must not become a loop."""
    waits: list[float] = []

    async def pause(_: RetryPolicy, seconds: float) -> None:
        waits.append(seconds)
        await asyncio.sleep(3600 if len(waits) == 4 else 0)

    monkeypatch.setattr(events_resource, "PAGE_ITEMS_MAX", 500)
    for number in range(600):
        cluster.add(f"e{number}")
    cluster.next_list.extend([cluster._list, expired_status] * 5)
    monkeypatch.setattr(RetryPolicy, "pause", pause)
    running = collecting()
    await eventually(lambda: len(waits) == 4)
    # The first time it asks anew at once.
    assert len(cluster.lists()) == 10
    assert not running.cluster.ok
    assert await stored_place(streams) is None
    await running.kill()


async def test_an_immediate_empty_close_counts_as_410(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """GKE: two watches that end at once, then a list, and never more than one in a second."""
    monkeypatch.setattr(recovery, "PACE_SECONDS", 0.2)
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.add("one")
    await until_told(streams, 1)
    lists = len(cluster.lists())
    cluster.next_watch.extend([tells()] * 3)
    cluster.end_watches()
    await eventually(lambda: len(cluster.lists()) == lists + 1)
    cluster.add("two")
    assert revisions(await until_told(streams, 2)) == [101, 102]
    # The third close came right after the list: it waits before it lists again.
    await eventually(lambda: len(cluster.watches()) == 5)
    times = [request.at for request in cluster.watches()]
    assert min(b - a for a, b in pairwise(times)) > 0.19
    assert running.count("short_watches") == 3


async def test_a_server_that_closes_every_watch_at_once_is_asked_ever_less_often(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where a list does not help, lists and watches must not become a loop."""
    waits = counted_waits(monkeypatch)
    cluster.next_watch.extend([tells()] * 7)
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 8)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4]
    cluster.add("one")
    await until_told(streams, 1)
    await eventually(lambda: running.cluster.ok)


async def test_one_immediate_close_of_an_old_place_is_enough(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    await store_place(streams, 100, ago=120)
    cluster.add("missed")
    cluster.next_watch.append(tells())
    running = collecting()
    assert revisions(await until_told(streams, 1)) == [101]
    assert running.count("short_watches") == 1
    assert running.count("relists", reason="expired") == 1


async def test_a_peer_that_falls_silent_is_left_at_the_deadline(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A balancer holds the connection open whose server is gone: nothing comes, not even an end.

    test_half_open.py has the same of a list.
    """
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (0.2, 0.2))
    cluster.next_watch.append(tells(end=False))
    running = collecting()
    await eventually(lambda: len(cluster.watches()) >= 2, 5)
    waited = cluster.watches()[1].at - cluster.watches()[0].at
    assert 0.7 <= waited < 2.5
    cluster.add("one")
    await until_told(streams, 1)
    assert running.count("api_failures", status="0") == 1


async def test_a_cut_line_is_asked_for_again(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.end_watches()

    async def cut(exchange: Exchange) -> None:
        await exchange.head()
        line = a_line("ADDED", revision_of("one", 101))
        await exchange.chunk(line)
        await exchange.chunk(a_line("ADDED", revision_of("two", 102))[:200])
        await asyncio.sleep(0.05)
        exchange.cut()

    cluster.next_watch.append(cut)
    await eventually(lambda: len(cluster.watches()) == 2)
    cluster.add("one")
    cluster.add("two")
    assert revisions(await until_told(streams, 2)) == [101, 102]
    assert int(cluster.watches()[2].params["resourceVersion"]) == 101
    assert running.count("records_undecodable") == 0


async def test_a_garbage_line_is_read_again_and_left_out_when_it_stays(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
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
    assert revisions(await until_told(streams, 2)) == [101, 103]
    assert running.count("records_undecodable") == 1
    places = [watch.params["resourceVersion"] for watch in cluster.watches()]
    assert places == ["100", "100", "101", "101"]


async def test_what_ends_its_life_is_no_news_but_moves_the_place(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """An hour after a storm, the cluster deletes it: 10,000 DELETED frames."""
    await store_place(streams, 100)
    for number in range(10_000):
        event = revision_of(f"e{number}", 101 + number)
        cluster.history.append((101 + number, "DELETED", event))
    cluster.revision = 10_100
    running = collecting()
    assert (await until_stored(streams, 10_100)).revision == 10_100
    assert await told(streams) == []
    assert running.count("watch_frames", type="DELETED") == 10_000


async def test_a_bookmark_moves_the_place(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    bookmark = ("BOOKMARK", {"kind": "Event", "metadata": {"resourceVersion": "170"}})
    cluster.revision = 170
    await store_place(streams, 100)
    cluster.next_watch.append(
        tells(bookmark, ("SOMETHING", {"metadata": {"resourceVersion": "171"}}))
    )
    running = collecting()
    await until_stored(streams, 171)
    assert running.count("watch_frames", type="other") == 1
    assert await told(streams) == []


async def test_a_cluster_restored_from_a_backup_is_not_watched_from_its_future(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """A watch from a revision that is still to come would be silent for ever."""
    await store_place(streams, 5000, ago=30)
    cluster.add("old", lastTimestamp="2020-01-01T00:00:00Z")
    recent = cluster.add("recent")
    running = collecting()
    events = await until_told(streams, 2)
    assert revisions(events) == [recent]
    assert [gap.reason for gap in gaps(events)] == ["restored"]
    later = cluster.add("later")
    assert revisions(await until_told(streams, 3)) == [recent, later]
    assert running.count("relists", reason="restored") == 1


async def test_a_cluster_restored_under_the_watch_is_noticed(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.add("one")
    await until_told(streams, 1)
    cluster.revision = 50
    cluster.history.clear()
    cluster.objects.clear()
    cluster.next_watch.append(fails(500))
    cluster.end_watches()
    await eventually(lambda: running.count("relists", reason="restored") == 1)
    revision = cluster.add("two")
    assert revisions(await until_told(streams, 3)) == [101, revision]


async def test_another_cluster_at_the_same_address_starts_from_nothing(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    cluster.revision = 5000
    first = collecting()
    await until_stored(streams, 5000)
    await first.stop()
    cluster.cluster_uid, cluster.revision = "99999999-0000-0000-0000-000000000000", 100
    cluster.add("old", lastTimestamp="2020-01-01T00:00:00Z")
    recent = cluster.add("recent")
    second = collecting()
    assert revisions(await until_told(streams, 1)) == [recent]
    assert second.count("relists", reason="first start") == 1


async def test_another_cluster_that_takes_over_the_address_ends_the_process(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.revision, cluster.cluster_uid = 5, "99999999-0000-0000-0000-000000000000"
    cluster.end_watches()
    with pytest.raises(BaseExceptionGroup) as caught:
        async with asyncio.timeout(10):
            await running.task
    assert caught.value.subgroup(watch.ClusterReplaced) is not None


async def test_403_waits_until_somebody_grants_it(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    cluster.next_list.extend([fails(403)] * 2)
    running = collecting()
    await eventually(lambda: "403" in running.cluster.detail)
    assert not running.cluster.ok
    cluster.add("one")
    await until_told(streams, 1)
    await eventually(lambda: running.cluster.ok)
    assert cluster.lists()[2].at - cluster.lists()[0].at >= 0.2


async def test_429_waits_as_long_as_it_is_told_to(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    cluster.next_watch.append(fails(429, Retry_After="1"))
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 2)
    assert cluster.watches()[1].at - cluster.watches()[0].at >= 1
    await eventually(lambda: running.cluster.ok)


def counted_waits(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The longest that each wait of the watch could have been; none is waited for."""
    waits: list[float] = []

    class Counting(recovery.Backoff):
        def draw_delay_seconds(self) -> float:
            waits.append(min(self._seconds_max, self._first_seconds * 2**self.failures))
            super().draw_delay_seconds()
            return 0.01

    monkeypatch.setattr(recovery, "Backoff", Counting)
    return waits


async def test_a_storm_of_500_and_504_is_not_answered_with_another(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Ready turns, the waits grow, nothing is lost."""
    waits = counted_waits(monkeypatch)
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.next_watch.extend([fails(500), fails(504)] * 5)
    cluster.end_watches()
    await eventually(lambda: not running.cluster.ok)
    cluster.add("one")
    await until_told(streams, 1)
    await eventually(lambda: running.cluster.ok)
    assert waits == [0.2, 0.4, 0.8, 1.6, 3.2, 6.4, 12.8, 25.6, 30, 30]
    assert running.count("api_failures", status="500") == 5
    assert running.count("api_failures", status="504") == 5


async def test_an_unreachable_server_is_waited_for(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    running = collecting()
    await eventually(lambda: len(cluster.watches()) == 1)
    await cluster.stop()
    await eventually(lambda: not running.cluster.ok)
    cluster.add("one")
    await cluster.start()
    assert revisions(await until_told(streams, 1)) == [101]
    await eventually(lambda: running.cluster.ok)


async def test_a_list_that_fails_twenty_times_keeps_the_place(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """OpenTelemetry forgets its place when the list that shall replace it fails."""
    monkeypatch.setattr(
        "sematext_agent.kubernetes_collector.retry_policy.Backoff.draw_delay_seconds",
        lambda _: 0.001,
    )
    await store_place(streams, 100, ago=1)
    cluster.add("one")
    cluster.compact()
    let_on = asyncio.Event()

    async def held(exchange: Exchange) -> None:
        await let_on.wait()
        await fails(500)(exchange)

    cluster.next_list.extend([*[fails(500)] * 19, held])
    running = collecting()
    await eventually(lambda: running.count("api_failures", status="500") == 19)
    place = await stored_place(streams)
    assert place is not None
    assert place.revision == 100
    let_on.set()
    assert revisions(await until_told(streams, 1)) == [101]
    assert running.count("relists") == 1


async def test_a_quiet_namespace_is_listed_cheaply_and_stays_ready(
    cluster: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing happens there for half an hour, while the rest of the cluster moves on."""
    monkeypatch.setattr(watch, "SHORT_SECONDS", 0)
    cluster.add("one")
    running = collecting(KUBERNETES_EVENTS_NAMESPACE="default")
    await until_told(streams, 1)
    for _ in range(6):
        watches = len(cluster.watches())
        cluster.revision += 1000
        cluster.compact()
        cluster.end_watches()
        await eventually(lambda n=watches: len(cluster.watches()) > n + 1)
        assert running.cluster.ok
    assert running.count("relists", reason="expired") == 6
    assert running.count("api_failures") == 0  # which would have made it unready for a while
    assert len(await told(streams)) == 1  # and no gap: nothing can be missing
    assert cluster.watches()[-1].path == "/api/v1/namespaces/default/events"


async def test_a_long_absence_is_told_as_a_gap(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    await store_place(streams, 100, ago=70 * 60)
    cluster.add("one")
    cluster.compact()
    collecting()
    (gap,) = gaps(await until_told(streams, 2))
    assert gap.source == "kubernetes"
    assert gap.since < gap.until
    assert gap.detail == "4200 s were not watched: events that lived only then are missing"


@pytest.mark.parametrize(
    ("lookback", "expected"), [("10m", ["recent"]), ("24h", ["old", "recent"]), ("0", [])]
)
async def test_the_first_start_tells_what_is_not_too_old(
    cluster: ApiServer, streams: Bus, collecting: Start, lookback: str, expected: list[str]
) -> None:
    hour_ago = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - 3600))
    cluster.add("old", lastTimestamp=hour_ago, message="old")
    cluster.add("recent", message="recent")
    collecting(KUBERNETES_EVENTS_LOOKBACK=lookback)
    await eventually(lambda: len(cluster.watches()) == 1)
    cluster.add("later", message="later")
    events = await until_told(streams, len(expected) + 1)
    messages = [e.body.message for e in events if isinstance(e.body, KubernetesEvent)]
    assert messages == [*expected, "later"]
