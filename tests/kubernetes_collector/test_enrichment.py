"""The owner and the labels of the object: attached where they are known in time, else not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker import wait_until
from kubernetes_api import ApiServer, Exchange, error_answer
from kubernetes_running import RunningCollector, revisions, wait_for_cursor, wait_for_events

from sematext_agent.kubernetes_collector import enrichment
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent

Start = Callable[..., RunningCollector]
ON = {"KUBERNETES_EVENTS_ENRICHMENT": "true"}
POD = "/api/v1/namespaces/default/pods/web"
REPLICAS = "/apis/apps/v1/namespaces/default/replicasets/web-7d4b"


def controlled_by(kind: str, name: str, uid: str) -> list[dict[str, Any]]:
    friend = {"kind": "Friend", "name": "no-controller", "uid": "f"}
    return [friend, {"kind": kind, "name": name, "uid": uid, "controller": True}]


@pytest.fixture
def deployment(cluster: ApiServer) -> ApiServer:
    """Return a cluster with the pod of the events, which belongs to a deployment."""
    cluster.metadata[POD] = {
        "uid": "pod-1",
        "labels": {"app": "web", "tier": "front"},
        "ownerReferences": controlled_by("ReplicaSet", "web-7d4b", "rs-1"),
    }
    cluster.metadata[REPLICAS] = {
        "uid": "rs-1",
        "ownerReferences": controlled_by("Deployment", "web", "d-1"),
    }
    return cluster


def bodies(events: list[Event]) -> list[KubernetesEvent]:
    return [event.body for event in events if isinstance(event.body, KubernetesEvent)]


def requests_to(cluster: ApiServer, path: str) -> list[Exchange]:
    return [request for request in cluster.requests if request.path == path]


async def test_enrichment_is_off_by_default(
    deployment: ApiServer, streams: Bus, start_collector: Start
) -> None:
    deployment.add("one")
    start_collector()
    (body,) = bodies(await wait_for_events(streams, 1))
    assert (body.owner, body.labels) == ("", {})
    assert requests_to(deployment, POD) == []


async def test_a_pods_events_have_its_labels_and_its_deployment(
    deployment: ApiServer, streams: Bus, start_collector: Start
) -> None:
    deployment.add("listed")
    running = start_collector(**ON)
    await wait_for_events(streams, 1)
    deployment.add("watched")
    collectors = bodies(await wait_for_events(streams, 2))
    assert [body.owner for body in collectors] == ["Deployment/web"] * 2
    assert [body.labels for body in collectors] == [{"app": "web", "tier": "front"}] * 2
    # One request for each object, for its metadata only.
    (pod,), (_,) = requests_to(deployment, POD), requests_to(deployment, REPLICAS)
    assert pod.headers["accept"] == enrichment.METADATA_ONLY
    assert running.count("object_lookups", result="found") == 2


async def test_the_event_id_does_not_depend_on_enrichment(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two replicas, of which one has the details, publish one event."""

    async def never(*_: Any) -> int:
        """Never answer: a stored cursor would end the other collector."""
        return await asyncio.Future()

    monkeypatch.setattr(streams, "replace", never)
    collectors = [start_collector(), start_collector(**ON)]
    await wait_until(lambda: len(deployment.watches()) == 2)
    deployment.add("one")
    await wait_until(lambda: sum(c.count("events_published") for c in collectors) == 2)
    assert len(await wait_for_events(streams, 1)) == 1
    for collector in collectors:
        await collector.kill()


async def test_a_slow_answer_delays_events_briefly_and_serves_the_next_event(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()
    await answers_late(deployment, monkeypatch, answered)
    monkeypatch.setattr(enrichment, "HELD_SECONDS", 0.1)
    start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    expected = [deployment.add(f"e{number}") for number in range(5)]
    events = await wait_for_events(streams, 5)
    assert not answered.is_set()
    assert revisions(events) == expected  # and in their order
    assert {body.owner for body in bodies(events)} == {""}
    await wait_for_cursor(streams, expected[-1])
    answered.set()
    await wait_until(lambda: bool(requests_to(deployment, REPLICAS)))
    expected.append(deployment.add("later"))
    await wait_for_events(streams, 6)
    assert len(requests_to(deployment, POD)) == 1


async def answers_late(
    cluster: ApiServer, monkeypatch: pytest.MonkeyPatch, answered: asyncio.Event
) -> None:
    answer = cluster._answer

    async def answer_late(exchange: Exchange) -> None:
        if exchange.path == POD:
            await answered.wait()
        await answer(exchange)

    monkeypatch.setattr(cluster, "_answer", answer_late)


async def test_the_number_of_held_events_is_bounded_and_their_order_kept(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading goes on during a slow answer: the first event is released before more are held."""
    await answers_late(deployment, monkeypatch, asyncio.Event())
    monkeypatch.setattr(enrichment, "HELD_SECONDS", 3600)
    monkeypatch.setattr(enrichment, "HELD_MAX", 10)
    start_collector(**ON, DRAIN_SECONDS="100ms")
    await wait_until(lambda: len(deployment.watches()) == 1)
    expected = [deployment.add(f"e{number}") for number in range(100)]
    events = await wait_for_events(streams, 90)
    assert revisions(events) == expected[:90]
    # Held events are not published yet: the cursor stays before them.
    assert (await wait_for_cursor(streams, expected[89])).revision == expected[89]


async def test_a_stop_releases_held_events(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answers_late(deployment, monkeypatch, asyncio.Event())
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    revision = deployment.add("one")
    await wait_until(lambda: bool(requests_to(deployment, POD)))
    await running.stop()
    assert revisions(await wait_for_events(streams, 1)) == [revision]
    assert (await wait_for_cursor(streams, revision)).revision == revision


@pytest.mark.parametrize(
    ("fault", "result", "requests"),
    [("gone", "gone", 1), ("friend", "other_object", 1), ("denied", "forbidden", 1)],
)
async def test_an_empty_answer_is_cached(
    deployment: ApiServer,
    streams: Bus,
    start_collector: Start,
    fault: str,
    result: str,
    requests: int,
) -> None:
    if fault == "gone":
        del deployment.metadata[POD]
    elif fault == "friend":
        # Another pod of the same name: its labels would be wrong.
        deployment.metadata[POD] |= {"uid": "pod-2"}
    else:
        deployment.denied.add(POD)
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    for number in range(3):
        deployment.add(f"e{number}")
        await wait_for_events(streams, number + 1)
    events = bodies(await wait_for_events(streams, 3))
    assert {(body.owner, len(body.labels)) for body in events} == {("", 0)}
    assert len(requests_to(deployment, POD)) == requests
    assert running.count("object_lookups", result=result) == 1
    assert running.cluster.ok


async def test_a_forbidden_kind_is_requested_once(
    deployment: ApiServer, streams: Bus, start_collector: Start
) -> None:
    paths = {POD.replace("web", f"web-{number}") for number in range(5)}
    deployment.denied |= paths
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    for number in range(5):
        subject = {
            "kind": "Pod",
            "namespace": "default",
            "name": f"web-{number}",
            "uid": f"{number}",
        }
        deployment.add(f"e{number}", involvedObject=subject)
        await wait_for_events(streams, number + 1)
    assert running.count("object_lookups") == 1


async def test_a_storm_of_objects_stays_within_the_budget(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment, "REQUESTS_PER_SECOND", 0.0)
    monkeypatch.setattr(enrichment, "REQUESTS_BURST", 7.0)
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    for number in range(200):
        subject = {"kind": "Pod", "namespace": "default", "name": f"p{number}", "uid": f"{number}"}
        deployment.add(f"e{number}", involvedObject=subject)
    assert revisions(await wait_for_events(streams, 200)) == list(range(101, 301))
    assert running.count("object_lookups", result="gone") == 7
    assert running.count("object_lookups", result="over_budget") == 193


@pytest.mark.parametrize(
    "subject",
    [
        {"kind": "Secret", "namespace": "default", "name": "s", "uid": "1"},
        {"kind": "Pod", "namespace": "default", "name": "../secrets/s", "uid": "1"},
        {"kind": "Pod", "namespace": "..", "name": "web", "uid": "1"},
        {"kind": "Pod", "namespace": "default", "name": "web"},
    ],
)
async def test_an_event_cannot_choose_an_arbitrary_path_to_request(
    deployment: ApiServer, streams: Bus, start_collector: Start, subject: dict[str, str]
) -> None:
    """Writers of events must not choose the paths that the collector requests."""
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    deployment.add("one", involvedObject=subject)
    await wait_for_events(streams, 1)
    assert running.count("object_lookups") == 0


async def test_a_failed_lookup_does_not_delay_the_event_or_readiness(
    deployment: ApiServer, streams: Bus, start_collector: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = deployment._answer

    async def failing(exchange: Exchange) -> None:
        await (error_answer(500) if exchange.path == POD else answer)(exchange)

    monkeypatch.setattr(deployment, "_answer", failing)
    running = start_collector(**ON)
    await wait_until(lambda: len(deployment.watches()) == 1)
    deployment.add("one")
    await wait_for_events(streams, 1)
    assert running.count("object_lookups", result="failed") == 1
    assert running.count("api_failures") == 0
    assert running.cluster.ok


def test_the_manifest_grants_exactly_the_requested_kinds() -> None:
    path = Path(__file__).parents[2] / "deploy/kubernetes/enrichment.yaml"
    role = next(m for m in yaml.safe_load_all(path.read_text()) if m["kind"] == "ClusterRole")
    granted = {
        (f"/apis/{group}/" if group else "/api/", resource)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
    }
    wanted = {
        (path.rpartition("/")[0] + "/", resource)
        for path, resource in enrichment.RESOURCES.values()
    }
    assert granted == wanted
    assert all(rule["verbs"] == ["get"] for rule in role["rules"])
