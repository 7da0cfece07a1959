"""Against a real kube-apiserver and etcd, where $KUBEBUILDER_ASSETS has them."""

from __future__ import annotations

import asyncio
import contextlib
import json
import shutil
import subprocess
import time
import urllib.error
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import eventually
from control_plane import ADMIN, ControlPlane, missing_assets
from kubernetes_api import kubeconfig
from kubernetes_running import Collecting, gaps, told

from sematext_agent.kubernetes_collector import events_resource, lease, retry_policy, watch
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent

pytestmark = pytest.mark.skipif(bool(missing_assets()), reason=missing_assets() or "-")

Start = Callable[..., Collecting]
MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/kubernetes-collector.yaml"

# https://sematext.com/docs/agents/sematext-agent/kubernetes/events/: all that can be excluded.
DOCUMENTED_KINDS = (
    "Container",
    "CronJob",
    "DaemonSet",
    "Deployment",
    "Job",
    "Pod",
    "ReplicaSet",
    "ReplicationController",
    "StatefulSet",
    "Endpoints",
    "Ingress",
    "Service",
    "ConfigMap",
    "Secret",
    "PersistentVolumeClaim",
    "StorageClass",
    "Volume",
    "VolumeAttachment",
    "Node",
    "Namespace",
    "PersistentVolume",
    "ServiceAccount",
    "Role",
    "Binding",
    "ClusterRole",
    "ClusterRoleBinding",
)
# And more that clusters tell of, one of them from a resource that somebody has defined.
KINDS = (
    *DOCUMENTED_KINDS,
    "Certificate",
    "CertificateSigningRequest",
    "ControllerRevision",
    "EndpointSlice",
    "HorizontalPodAutoscaler",
    "Lease",
    "LimitRange",
    "NetworkPolicy",
    "PodDisruptionBudget",
    "PodTemplate",
    "ResourceQuota",
)


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    folder = tmp_path / "plane"
    folder.mkdir()
    made = ControlPlane(folder)
    made.add_user("collector-token", "collector")
    made.add_user("next-token", "collector")
    made.start()
    yield made
    made.stop()


@pytest.fixture
async def start(
    plane: ControlPlane, streams: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Start]:
    """Starts collectors of the real cluster; ends those that a test left running."""
    monkeypatch.setattr(retry_policy, "DENIED_SECONDS", 0.2)
    started: list[Collecting] = []

    def begin(**environ: str) -> Collecting:
        user = {"token": environ.pop("TOKEN", ADMIN)}
        if "TOKEN_FILE" in environ:
            user = {"tokenFile": environ.pop("TOKEN_FILE")}
        config = kubeconfig(
            tmp_path / "kubeconfig", plane.url, certificate_authority=str(plane.certificate), **user
        )
        started.append(Collecting(streams, {"KUBECONFIG": str(config)} | environ))
        return started[-1]

    yield begin
    for one in started:
        if not one.task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await one.stop()


def post(plane: ControlPlane, name: str, kind: str = "Pod", **fields: Any) -> int:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": kind, "namespace": "default", "name": f"a-{kind.lower()}"},
        "reason": f"{kind}Changed",
        "message": f"{kind} was changed",
        "type": "Normal",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "test"},
    }
    made = plane.call("POST", "/api/v1/namespaces/default/events", event | fields)
    return int(made["metadata"]["resourceVersion"])


def repeat(plane: ControlPlane, name: str, count: int) -> int:
    path = f"/api/v1/namespaces/default/events/{name}"
    return int(plane.call("PATCH", path, {"count": count})["metadata"]["resourceVersion"])


def of_the_test(events: list[Event]) -> list[KubernetesEvent]:
    """Without what the API server itself records at its start."""
    return [
        event.body
        for event in events
        if isinstance(event.body, KubernetesEvent) and event.body.namespace == "default"
    ]


async def until(
    bus: Bus, condition: Callable[[list[Event]], bool], seconds: float = 20
) -> list[Event]:
    """Everything told, once `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition(events := await told(bus)):
            await asyncio.sleep(0.05)
    return events


def has(*resource_versions: int) -> Callable[[list[Event]], bool]:
    wanted = {str(version) for version in resource_versions}
    return lambda events: wanted <= {body.resource_version for body in of_the_test(events)}


async def test_events_of_every_kind_come_through_list_and_watch(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    listed = [post(plane, f"listed-{kind.lower()}", kind) for kind in KINDS]
    running = start()
    await until(streams, has(*listed))
    watched = [post(plane, f"watched-{kind.lower()}", kind) for kind in KINDS]
    events = await until(streams, has(*watched))
    bodies = of_the_test(events)
    assert sorted(int(body.resource_version) for body in bodies) == [*listed, *watched]
    assert {body.kind for body in bodies} == set(KINDS)
    uid = plane.call("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
    assert {event.origin for event in events} == {uid}
    assert {body.cluster for body in bodies} == {uid}
    assert running.cluster.ok


async def test_both_apis_show_the_same_event_once(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    start()
    event_time = time.strftime("%Y-%m-%dT%H:%M:%S.123456Z", time.gmtime())
    event = {
        "metadata": {"name": "newer", "namespace": "default"},
        "regarding": {"kind": "Pod", "namespace": "default", "name": "web"},
        "reason": "FailedScheduling",
        "note": "0/3 nodes are available",
        "type": "Warning",
        "eventTime": event_time,
        "action": "Scheduling",
        "reportingController": "default-scheduler",
        "reportingInstance": "scheduler-0",
    }
    path = "/apis/events.k8s.io/v1/namespaces/default/events"
    version = int(plane.call("POST", path, event)["metadata"]["resourceVersion"])
    events = [e for e in await until(streams, has(version)) if isinstance(e.body, KubernetesEvent)]
    (told_once,) = [e for e in events if e.body.reason == "FailedScheduling"]  # type: ignore[union-attr]
    assert told_once.time == event_time.removesuffix("Z") + "000Z"
    (body,) = of_the_test(events)
    assert (body.message, body.controller) == ("0/3 nodes are available", "default-scheduler")


async def test_events_made_by_kubectl_and_by_client_gos_recorders(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    if not (plane.has("kubectl") and plane.has("event-recorder")):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl or no event-recorder")
    start()
    manifest = plane.folder / "event.json"
    manifest.write_text(
        json.dumps(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "reason": "ByHand",
                "message": "by kubectl",
                "metadata": {"name": "by-hand", "namespace": "default"},
                "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web"},
            }
        )
    )
    await asyncio.to_thread(plane.kubectl, "create", "-f", str(manifest))
    await asyncio.to_thread(plane.kubectl, "annotate", "events/by-hand", "note=again")
    await asyncio.to_thread(plane.record, 5)

    def complete(events: list[Event]) -> bool:
        bodies = of_the_test(events)
        return any(body.reason == "BackOff" and body.count == 5 for body in bodies) and any(
            body.reason == "FailedScheduling" for body in bodies
        )

    bodies = of_the_test(await until(streams, complete))
    assert [body.reason for body in bodies].count("ByHand") == 2
    assert {body.node for body in bodies if body.reason == "BackOff"} == {"node-1"}
    assert {b.controller for b in bodies if b.reason == "FailedScheduling"} == {"default-scheduler"}


async def test_the_server_is_killed_and_started_again(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    running = start()
    expected = [post(plane, "one")]
    await until(streams, has(*expected))
    await asyncio.to_thread(plane.kill, "kube-apiserver")
    await eventually(lambda: not running.cluster.ok)
    await asyncio.to_thread(plane.start_apiserver)
    expected += [post(plane, "two"), repeat(plane, "one", 2)]
    events = await until(streams, has(*expected), 60)
    assert sorted(int(body.resource_version) for body in of_the_test(events)) == expected
    assert gaps(events) == []
    assert running.count("relists", reason="expired") == 0


async def test_etcd_compacted_while_nobody_watched(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    """A real 410: what is new is told, what was told is not, and a gap says what may be missing."""
    first = start()
    expected = [post(plane, "one")]
    await until(streams, has(*expected))
    await first.stop()
    repeat(plane, "one", 2)
    expected += [repeat(plane, "one", 3), post(plane, "two")]
    await asyncio.to_thread(plane.compact)
    again = start()
    events = await until(streams, has(*expected))
    await eventually(lambda: again.count("events_published", kind="Gap") == 1)
    events = await until(streams, lambda told: bool(gaps(told)))
    assert [int(body.resource_version) for body in of_the_test(events)].count(expected[0]) == 1
    assert sorted(int(body.resource_version) for body in of_the_test(events)) == expected
    assert again.count("relists", reason="expired") == 1


async def test_etcd_compacted_under_the_watch(
    plane: ControlPlane, streams: Bus, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch goes on; reconnecting from the old place of a quiet scope is a real 410."""
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    monkeypatch.setattr(watch, "SHORT_SECONDS", 0.5)
    running = start(KUBERNETES_EVENTS_NAMESPACE="default")
    first = post(plane, "one")
    await until(streams, has(first))
    for number in range(5):
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"other-{number}"}})
    await asyncio.to_thread(plane.compact)
    second = post(plane, "two")
    await until(streams, has(second))
    for number in range(5, 10):
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"other-{number}"}})
    await asyncio.to_thread(plane.compact)
    await eventually(lambda: running.count("relists", reason="expired") >= 1, 20)
    third = post(plane, "three")
    events = await until(streams, has(third))
    assert [int(body.resource_version) for body in of_the_test(events)] == [first, second, third]
    assert gaps(events) == []


async def test_etcd_restored_from_a_backup(plane: ControlPlane, streams: Bus, start: Start) -> None:
    """The server is then at an older revision than we are; a watch from ours would be silent."""
    running = start()
    before = post(plane, "one")
    await until(streams, has(before))
    await asyncio.to_thread(plane.stop)
    backup = plane.folder / "backup"
    shutil.copytree(plane.folder / "etcd", backup)
    await asyncio.to_thread(plane.start)
    lost = [post(plane, f"lost-{number}") for number in range(50)]
    await until(streams, has(*lost), 60)
    await asyncio.to_thread(plane.stop)
    plane.restore_etcd(backup)
    await asyncio.to_thread(plane.start)
    await eventually(lambda: running.count("relists", reason="restored") == 1, 60)
    # Revisions are given a second time now, so the new event is known by its text.
    post(plane, "after", message="after the restore")

    def complete(events: list[Event]) -> bool:
        return any(body.message == "after the restore" for body in of_the_test(events))

    events = await until(streams, complete)
    assert [gap.reason for gap in gaps(events)] == ["restored"]


async def test_events_that_end_their_life_are_no_news(
    tmp_path: Path, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    plane = ControlPlane(folder, event_ttl="3s")
    await asyncio.to_thread(plane.start)
    config = kubeconfig(
        tmp_path / "k", plane.url, certificate_authority=str(plane.certificate), token=ADMIN
    )
    running = Collecting(streams, {"KUBECONFIG": str(config)})
    try:
        version = post(plane, "short-lived")
        await until(streams, has(version))
        await eventually(lambda: running.count("watch_frames", type="DELETED") >= 1, 30)
        later = post(plane, "later")
        events = await until(streams, has(later))
        assert [int(b.resource_version) for b in of_the_test(events)] == [version, later]
    finally:
        await running.stop()
        await asyncio.to_thread(plane.stop)


RULES = [{"apiGroups": [""], "resources": ["events"], "verbs": ["list", "watch"]}]
KUBE_SYSTEM = {
    "apiGroups": [""],
    "resources": ["namespaces"],
    "resourceNames": ["kube-system"],
    "verbs": ["get"],
}
LEASES = {
    "apiGroups": ["coordination.k8s.io"],
    "resources": ["leases"],
    "verbs": ["get", "create", "update"],
}
RBAC = "/apis/rbac.authorization.k8s.io/v1"


def grant(plane: ControlPlane, rules: list[dict[str, Any]], name: str = "collector") -> None:
    """Lets the user `collector` do what `rules` say, everywhere."""
    role = {"metadata": {"name": name}, "rules": rules}
    try:
        plane.call("POST", f"{RBAC}/clusterroles", role)
        plane.call(
            "POST",
            f"{RBAC}/clusterrolebindings",
            {
                "metadata": {"name": name},
                "roleRef": {
                    "apiGroup": "rbac.authorization.k8s.io",
                    "kind": "ClusterRole",
                    "name": name,
                },
                "subjects": [{"kind": "User", "name": "collector"}],
            },
        )
    except urllib.error.HTTPError as error:
        if error.code != 409:
            raise
        plane.call("PUT", f"{RBAC}/clusterroles/{name}", role)


async def test_what_is_denied_is_waited_for_and_what_the_manifest_grants_is_enough(
    plane: ControlPlane, streams: Bus, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    running = start(
        TOKEN="collector-token",
        KUBERNETES_CLUSTER_ID="prod",
        KUBERNETES_LEASE="default/kubernetes-collector",
    )
    expected = [post(plane, "one")]
    await eventually(lambda: not running.health.report().ready)
    grant(plane, [LEASES, KUBE_SYSTEM], "half")
    await eventually(lambda: "403" in running.cluster.detail, 20)
    grant(plane, RULES)
    await until(streams, has(*expected))
    await eventually(lambda: running.health.report().ready)
    # Taken away while watching: the open watch goes on, the next one is refused.
    plane.call("DELETE", f"{RBAC}/clusterroles/collector")
    expected.append(post(plane, "two"))
    await until(streams, has(*expected))
    await eventually(lambda: "403" in running.cluster.detail, 20)
    expected.append(post(plane, "three"))
    plane.call("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "collector"}, "rules": RULES})
    events = await until(streams, has(*expected))
    assert [int(body.resource_version) for body in of_the_test(events)] == expected


async def test_the_manifest_applies_and_its_rights_are_just_enough(
    plane: ControlPlane, streams: Bus, start: Start
) -> None:
    if not plane.has("kubectl"):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl")
    await asyncio.to_thread(plane.kubectl, "apply", "-f", str(MANIFEST))
    account = "/api/v1/namespaces/sematext/serviceaccounts/kubernetes-collector"
    made = await asyncio.to_thread(
        plane.call, "POST", f"{account}/token", {"spec": {"expirationSeconds": 600}}
    )
    running = start(TOKEN=made["status"]["token"], KUBERNETES_LEASE="sematext/kubernetes-collector")
    version = post(plane, "one")
    await until(streams, has(version))
    await eventually(lambda: running.health.report().ready)
    await asyncio.sleep(lease.RETRY_SECONDS * 1.5)  # the lease has been renewed
    assert running.count("api_failures") == 0
    who = "--as=system:serviceaccount:sematext:kubernetes-collector"
    for forbidden in (
        "list secrets",
        "list pods",
        "get events",
        "create events",
        "list namespaces",
        "delete leases",
        "get namespaces/default",
    ):
        verb, thing = forbidden.split()
        with pytest.raises(subprocess.CalledProcessError) as refused:
            await asyncio.to_thread(plane.kubectl, "auth", "can-i", verb, thing, "-A", who)
        assert refused.value.stdout.strip() == "no"


async def test_a_token_is_rotated(
    plane: ControlPlane, streams: Bus, start: Start, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    grant(plane, [*RULES, KUBE_SYSTEM])
    token = tmp_path / "token"
    token.write_text("collector-token")
    running = start(TOKEN_FILE=str(token))
    await until(streams, has(post(plane, "one")))
    token.write_text("next-token")
    tokens = plane.folder / "tokens.csv"
    tokens.write_text(tokens.read_text().replace("collector-token", "revoked-token"))
    await asyncio.to_thread(plane.kill, "kube-apiserver")
    await asyncio.to_thread(plane.start_apiserver)
    await until(streams, has(post(plane, "two")), 60)
    assert running.count("api_failures", status="401") == 0


async def test_two_replicas_and_one_lease(plane: ControlPlane, streams: Bus, start: Start) -> None:
    both = [start(KUBERNETES_LEASE="default/kubernetes-collector") for _ in range(2)]

    def active() -> list[Collecting]:
        return [
            one
            for one in both
            if (state := one.health.report().conditions.get("lease")) and state.detail == "active"
        ]

    await eventually(lambda: len(active()) == 1, 20)
    expected = [post(plane, "one")]
    await until(streams, has(*expected))
    (first,) = active()
    await first.stop()
    both.remove(first)
    await eventually(lambda: len(active()) == 1, 20)
    expected.append(post(plane, "two"))
    events = await until(streams, has(*expected))
    assert [int(body.resource_version) for body in of_the_test(events)] == expected
    record = plane.call(
        "GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/kubernetes-collector"
    )
    assert record["spec"]["leaseTransitions"] == 2
