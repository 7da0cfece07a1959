"""The owner and the labels of the object: attached where they are known in time, else not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker import eventually
from kubernetes_api import ApiServer, Exchange, fails
from kubernetes_running import Collecting, revisions, until_stored, until_told

from sematext_agent.kubernetes_collector import enrichment
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent

Start = Callable[..., Collecting]
ON = {"KUBERNETES_EVENTS_ENRICHMENT": "true"}
POD = "/api/v1/namespaces/default/pods/web"
REPLICAS = "/apis/apps/v1/namespaces/default/replicasets/web-7d4b"


def controlled_by(kind: str, name: str, uid: str) -> list[dict[str, Any]]:
    other = {"kind": "Friend", "name": "no-controller", "uid": "f"}
    return [other, {"kind": kind, "name": name, "uid": uid, "controller": True}]


@pytest.fixture
def deployment(cluster: ApiServer) -> ApiServer:
    """A cluster with the pod that the events are about, of a deployment."""
    cluster.things[POD] = {
        "uid": "pod-1",
        "labels": {"app": "web", "tier": "front"},
        "ownerReferences": controlled_by("ReplicaSet", "web-7d4b", "rs-1"),
    }
    cluster.things[REPLICAS] = {
        "uid": "rs-1",
        "ownerReferences": controlled_by("Deployment", "web", "d-1"),
    }
    return cluster


def bodies(events: list[Event]) -> list[KubernetesEvent]:
    return [event.body for event in events if isinstance(event.body, KubernetesEvent)]


def asked(cluster: ApiServer, path: str) -> list[Exchange]:
    return [request for request in cluster.requests if request.path == path]


async def test_it_is_off_by_default(deployment: ApiServer, streams: Bus, collecting: Start) -> None:
    deployment.add("one")
    collecting()
    (body,) = bodies(await until_told(streams, 1))
    assert (body.owner, body.labels) == ("", {})
    assert asked(deployment, POD) == []


async def test_a_pods_events_have_its_labels_and_its_deployment(
    deployment: ApiServer, streams: Bus, collecting: Start
) -> None:
    deployment.add("listed")
    running = collecting(**ON)
    await until_told(streams, 1)
    deployment.add("watched")
    both = bodies(await until_told(streams, 2))
    assert [body.owner for body in both] == ["Deployment/web"] * 2
    assert [body.labels for body in both] == [{"app": "web", "tier": "front"}] * 2
    # One request for each object, for its metadata only.
    (pod,), (_,) = asked(deployment, POD), asked(deployment, REPLICAS)
    assert pod.headers["accept"] == enrichment.METADATA_ONLY
    assert running.count("object_lookups", result="found") == 2


async def test_the_id_is_the_same_with_and_without(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So the copies of two replicas, one of which knows more, are one event."""

    async def never(*_: Any) -> int:
        """A cursor that is stored would end the other one."""
        return await asyncio.Future()

    monkeypatch.setattr(streams, "replace", never)
    both = [collecting(), collecting(**ON)]
    await eventually(lambda: len(deployment.watches()) == 2)
    deployment.add("one")
    await eventually(lambda: sum(one.count("events_published") for one in both) == 2)
    assert len(await until_told(streams, 1)) == 1
    for one in both:
        await one.kill()


async def test_a_slow_answer_delays_nothing_for_long_and_serves_the_next_event(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    answered = asyncio.Event()
    await answers_late(deployment, monkeypatch, answered)
    monkeypatch.setattr(enrichment, "HELD_SECONDS", 0.1)
    collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    expected = [deployment.add(f"e{number}") for number in range(5)]
    events = await until_told(streams, 5)
    assert not answered.is_set()
    assert revisions(events) == expected  # and in their order
    assert {body.owner for body in bodies(events)} == {""}
    await until_stored(streams, expected[-1])
    answered.set()
    await eventually(lambda: bool(asked(deployment, REPLICAS)))
    expected.append(deployment.add("later"))
    await until_told(streams, 6)
    assert len(asked(deployment, POD)) == 1


async def answers_late(
    cluster: ApiServer, monkeypatch: pytest.MonkeyPatch, answered: asyncio.Event
) -> None:
    answer = cluster._answer

    async def late(exchange: Exchange) -> None:
        if exchange.path == POD:
            await answered.wait()
        await answer(exchange)

    monkeypatch.setattr(cluster, "_answer", late)


async def test_only_so_many_are_held_and_all_keep_their_order(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However long an answer takes, reading goes on: the first is let go before more are held."""
    await answers_late(deployment, monkeypatch, asyncio.Event())
    monkeypatch.setattr(enrichment, "HELD_SECONDS", 3600)
    monkeypatch.setattr(enrichment, "HELD_MAX", 10)
    collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    expected = [deployment.add(f"e{number}") for number in range(100)]
    events = await until_told(streams, 90)
    assert revisions(events) == expected[:90]
    # What is held is not safe: the place is before it.
    assert (await until_stored(streams, expected[89])).revision == expected[89]


async def test_a_stop_lets_go_what_is_held(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    await answers_late(deployment, monkeypatch, asyncio.Event())
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    revision = deployment.add("one")
    await eventually(lambda: bool(asked(deployment, POD)))
    await running.stop()
    assert revisions(await until_told(streams, 1)) == [revision]
    assert (await until_stored(streams, revision)).revision == revision


@pytest.mark.parametrize(
    ("fault", "result", "requests"),
    [("gone", "gone", 1), ("other", "other_object", 1), ("denied", "forbidden", 1)],
)
async def test_that_there_is_nothing_to_learn_is_remembered(
    deployment: ApiServer, streams: Bus, collecting: Start, fault: str, result: str, requests: int
) -> None:
    if fault == "gone":
        del deployment.things[POD]
    elif fault == "other":
        # Another pod of the same name: its labels would be wrong.
        deployment.things[POD] |= {"uid": "pod-2"}
    else:
        deployment.denied.add(POD)
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    for number in range(3):
        deployment.add(f"e{number}")
        await until_told(streams, number + 1)
    events = bodies(await until_told(streams, 3))
    assert {(body.owner, len(body.labels)) for body in events} == {("", 0)}
    assert len(asked(deployment, POD)) == requests
    assert running.count("object_lookups", result=result) == 1
    assert running.cluster.ok


async def test_a_forbidden_kind_is_not_asked_for_again_and_again(
    deployment: ApiServer, streams: Bus, collecting: Start
) -> None:
    paths = {POD.replace("web", f"web-{number}") for number in range(5)}
    deployment.denied |= paths
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    for number in range(5):
        about = {"kind": "Pod", "namespace": "default", "name": f"web-{number}", "uid": f"{number}"}
        deployment.add(f"e{number}", involvedObject=about)
        await until_told(streams, number + 1)
    assert running.count("object_lookups") == 1


async def test_a_storm_of_objects_stays_within_the_budget(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enrichment, "REQUESTS_PER_SECOND", 0.0)
    monkeypatch.setattr(enrichment, "REQUESTS_BURST", 7.0)
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    for number in range(200):
        about = {"kind": "Pod", "namespace": "default", "name": f"p{number}", "uid": f"{number}"}
        deployment.add(f"e{number}", involvedObject=about)
    assert revisions(await until_told(streams, 200)) == list(range(101, 301))
    assert running.count("object_lookups", result="gone") == 7
    assert running.count("object_lookups", result="over_budget") == 193


@pytest.mark.parametrize(
    "about",
    [
        {"kind": "Secret", "namespace": "default", "name": "s", "uid": "1"},
        {"kind": "Pod", "namespace": "default", "name": "../secrets/s", "uid": "1"},
        {"kind": "Pod", "namespace": "..", "name": "web", "uid": "1"},
        {"kind": "Pod", "namespace": "default", "name": "web"},
    ],
)
async def test_what_an_event_claims_leads_nowhere_else(
    deployment: ApiServer, streams: Bus, collecting: Start, about: dict[str, str]
) -> None:
    """Who may write events must not choose what is asked for."""
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    deployment.add("one", involvedObject=about)
    await until_told(streams, 1)
    assert running.count("object_lookups") == 0


async def test_a_failing_server_is_not_the_events_matter(
    deployment: ApiServer, streams: Bus, collecting: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = deployment._answer

    async def failing(exchange: Exchange) -> None:
        await (fails(500) if exchange.path == POD else answer)(exchange)

    monkeypatch.setattr(deployment, "_answer", failing)
    running = collecting(**ON)
    await eventually(lambda: len(deployment.watches()) == 1)
    deployment.add("one")
    await until_told(streams, 1)
    assert running.count("object_lookups", result="failed") == 1
    assert running.count("api_failures") == 0
    assert running.cluster.ok


def test_the_manifest_grants_what_is_asked_for_and_nothing_else() -> None:
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
