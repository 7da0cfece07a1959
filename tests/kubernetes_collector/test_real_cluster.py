"""Events of every kind and origin in a real cluster, where $KUBEBUILDER_ASSETS has one."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable

import pytest
from control_plane import ControlPlane, missing_assets
from kubernetes_running import RunningCollector
from real_cluster import contains, post_event, select_test_events, wait_for_published

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent

pytestmark = pytest.mark.skipif(bool(missing_assets()), reason=missing_assets() or "-")


Start = Callable[..., RunningCollector]


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


# More that clusters record, one of them from a resource that somebody has defined.
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


async def test_events_of_every_kind_are_published_from_list_and_watch(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    listed = [post_event(plane, f"listed-{kind.lower()}", kind) for kind in KINDS]
    running = start_on_plane()
    await wait_for_published(streams, contains(*listed))
    watched = [post_event(plane, f"watched-{kind.lower()}", kind) for kind in KINDS]
    events = await wait_for_published(streams, contains(*watched))
    bodies = select_test_events(events)
    assert sorted(int(body.resource_version) for body in bodies) == [*listed, *watched]
    assert {body.kind for body in bodies} == set(KINDS)
    uid = plane.call("GET", "/api/v1/namespaces/kube-system")["metadata"]["uid"]
    assert {event.origin for event in events} == {uid}
    assert {body.cluster for body in bodies} == {uid}
    assert running.cluster.ok


async def test_both_apis_show_the_same_event_once(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    start_on_plane()
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
    events = [
        e
        for e in await wait_for_published(streams, contains(version))
        if isinstance(e.body, KubernetesEvent)
    ]
    (newer,) = [e for e in events if e.body.reason == "FailedScheduling"]  # type: ignore[union-attr]
    assert newer.time == event_time.removesuffix("Z") + "000Z"
    (body,) = select_test_events(events)
    assert (body.message, body.controller) == ("0/3 nodes are available", "default-scheduler")


async def test_events_of_kubectl_and_of_client_go_recorders_are_published(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    if not (plane.has("kubectl") and plane.has("event-recorder")):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl or no event-recorder")
    start_on_plane()
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
        bodies = select_test_events(events)
        return any(body.reason == "BackOff" and body.count == 5 for body in bodies) and any(
            body.reason == "FailedScheduling" for body in bodies
        )

    bodies = select_test_events(await wait_for_published(streams, complete))
    assert [body.reason for body in bodies].count("ByHand") == 2
    assert {body.node for body in bodies if body.reason == "BackOff"} == {"node-1"}
    assert {b.controller for b in bodies if b.reason == "FailedScheduling"} == {"default-scheduler"}
