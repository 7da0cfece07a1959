"""Random histories of a cluster and of the collector's faults, against a model.

Every revision that the cluster could still show is published, and none is stored twice.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import ApiServer, Exchange, encode_frame, error_answer, watch_answer
from kubernetes_running import RunningCollector, gaps, published_events, revisions

from sematext_agent.kubernetes_collector import recovery
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import KubernetesEvent

Start = Callable[..., RunningCollector]


class World:
    """The cluster, the collector, and the revisions that must be published in the end."""

    def __init__(
        self, cluster: ApiServer, start: Start, luck: random.Random, news: set[int]
    ) -> None:
        self.cluster = cluster
        self._news = news
        self._start = start
        self._luck = luck
        self.running = start()
        self.excused: set[int] = set()
        self.steps: list[str] = []
        self._list, cluster._list = cluster._list, self._listed  # type: ignore[method-assign]

    async def step(self) -> None:
        does = self._luck.choices(
            (
                self.change,
                self.delete,
                self.compact,
                self.end,
                self.cut,
                self.fail,
                self.silent,
                self.kill,
                self.restart,
                self.wait,
            ),
            (40, 4, 4, 6, 6, 4, 3, 4, 3, 8),
        )[0]
        self.steps.append(does.__name__)
        await does()

    async def change(self) -> None:
        for _ in range(self._luck.randrange(1, 8)):
            self.cluster.add(f"e{self._luck.randrange(12)}")

    async def delete(self) -> None:
        if self.cluster.objects:
            self.cluster.delete(self._luck.choice(sorted(self.cluster.objects)))

    async def compact(self) -> None:
        """Compact what happens just before, so that only a list can show it."""
        self.cluster.end_watches()
        await self.change()
        self.cluster.compact()

    async def _listed(self, exchange: Exchange) -> None:
        """Excuse the revisions replaced since the cursor: a list shows the present state only."""
        if exchange.params["limit"] != "1":
            place = self.running.count("resource_version")
            self.excused |= {at for at in self._news - self._present() if at > place}
        await self._list(exchange)

    async def end(self) -> None:
        self.cluster.end_watches()

    async def cut(self) -> None:
        """Break the next watch off in the middle of a line."""
        cluster = self.cluster

        async def cut(exchange: Exchange) -> None:
            place = int(exchange.params["resourceVersion"])
            await exchange.head()
            news = [encode_frame(kind, event) for at, kind, event in cluster.history if at > place]
            if place >= cluster.compacted:
                whole = b"".join(news)
                await exchange.chunk(whole[: self._luck.randrange(len(whole) + 1)])
            await asyncio.sleep(0.01)
            exchange.cut()

        cluster.next_watch.append(cut)
        cluster.end_watches()

    async def fail(self) -> None:
        queue = self._luck.choice((self.cluster.next_list, self.cluster.next_watch))
        queue.append(error_answer(self._luck.choice((410, 429, 500, 503, 504))))

    async def silent(self) -> None:
        """Close the next watch at once and empty."""
        self.cluster.next_watch.append(watch_answer())
        self.cluster.end_watches()

    async def kill(self) -> None:
        await self.running.kill()
        self.running = self._start(KUBERNETES_EVENTS_LOOKBACK="24h")

    async def restart(self) -> None:
        await self.running.stop()
        self.running = self._start(KUBERNETES_EVENTS_LOOKBACK="24h")

    async def wait(self) -> None:
        await asyncio.sleep(self._luck.random() * 0.1)

    def required(self) -> set[int]:
        return (self._news - self.excused) | self._present()

    def _present(self) -> set[int]:
        return {
            int(event["metadata"]["resourceVersion"]) for event in self.cluster.objects.values()
        }


@pytest.mark.parametrize("seed", range(6))
async def test_a_random_history_is_published_completely_and_once(
    cluster: ApiServer,
    streams: Bus,
    start_collector: Start,
    seed: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(recovery, "PACE_SECONDS", 0.01)
    monkeypatch.setattr(
        "sematext_agent.kubernetes_collector.retry_policy.Backoff.draw_delay_seconds",
        lambda _: 0.01,
    )
    luck = random.Random(seed)
    news: set[int] = set()
    store = cluster._store

    def remember(kind: str, name: str, event: dict[str, object]) -> int:
        revision = store(kind, name, event)
        if kind != "DELETED":
            news.add(revision)
        return revision

    monkeypatch.setattr(cluster, "_store", remember)
    world = World(cluster, start_collector, luck, news)
    for _ in range(80):
        await world.step()
    cluster.next_list.clear()
    cluster.next_watch.clear()
    last = cluster.add("the last")
    await wait_until(lambda: world.running.count("resource_version") >= last, 20)
    await world.running.stop()
    events = await published_events(streams)
    once = revisions(events)
    assert len(once) == len(set(once)), world.steps
    assert world.required() - set(once) == set(), world.steps
    assert set(once) <= news
    newest = {
        event.body.uid: int(event.body.resource_version)
        for event in events
        if isinstance(event.body, KubernetesEvent)
    }
    for name, event in cluster.objects.items():
        assert newest[f"uid-{name}"] == int(event["metadata"]["resourceVersion"]), world.steps
    assert len({(gap.since, gap.until) for gap in gaps(events)}) == len(gaps(events))
