"""The rights, tokens and leases of a real cluster, where $KUBEBUILDER_ASSETS has one."""

from __future__ import annotations

import asyncio
import subprocess
import urllib.error
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from broker import wait_until
from control_plane import ControlPlane, missing_assets
from kubernetes_running import RunningCollector
from real_cluster import contains, post_event, select_test_events, wait_for_published

from sematext_agent.kubernetes_collector import events_resource, lease
from sematext_agent.shared.bus import Bus

pytestmark = pytest.mark.skipif(bool(missing_assets()), reason=missing_assets() or "-")


Start = Callable[..., RunningCollector]


MANIFEST = Path(__file__).parents[2] / "deploy/kubernetes/kubernetes-collector.yaml"


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
    """Grant `rules` to the user `collector`, in all namespaces."""
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


async def test_a_missing_right_is_waited_for_until_it_is_granted(
    plane: ControlPlane, streams: Bus, start_on_plane: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    running = start_on_plane(
        TOKEN="collector-token",
        KUBERNETES_CLUSTER_ID="prod",
        KUBERNETES_LEASE="default/kubernetes-collector",
    )
    expected = [post_event(plane, "one")]
    await wait_until(lambda: not running.health.report().ready)
    grant(plane, [LEASES, KUBE_SYSTEM], "half")
    await wait_until(lambda: "403" in running.cluster.detail, 20)
    grant(plane, RULES)
    await wait_for_published(streams, contains(*expected))
    await wait_until(lambda: running.health.report().ready)
    # Taken away while watching: the open watch goes on, the next one is refused.
    plane.call("DELETE", f"{RBAC}/clusterroles/collector")
    expected.append(post_event(plane, "two"))
    await wait_for_published(streams, contains(*expected))
    await wait_until(lambda: "403" in running.cluster.detail, 20)
    expected.append(post_event(plane, "three"))
    plane.call("POST", f"{RBAC}/clusterroles", {"metadata": {"name": "collector"}, "rules": RULES})
    events = await wait_for_published(streams, contains(*expected))
    assert [int(body.resource_version) for body in select_test_events(events)] == expected


async def test_the_manifest_applies_and_grants_exactly_the_rights_needed(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    if not plane.has("kubectl"):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl")
    await asyncio.to_thread(plane.kubectl, "apply", "-f", str(MANIFEST))
    account = "/api/v1/namespaces/sematext/serviceaccounts/kubernetes-collector"
    answer = await asyncio.to_thread(
        plane.call, "POST", f"{account}/token", {"spec": {"expirationSeconds": 600}}
    )
    running = start_on_plane(
        TOKEN=answer["status"]["token"], KUBERNETES_LEASE="sematext/kubernetes-collector"
    )
    version = post_event(plane, "one")
    await wait_for_published(streams, contains(version))
    await wait_until(lambda: running.health.report().ready)
    await asyncio.sleep(lease.RETRY_SECONDS * 1.5)  # the lease has been renewed
    assert running.count("api_failures") == 0
    identity = "--as=system:serviceaccount:sematext:kubernetes-collector"
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
            await asyncio.to_thread(plane.kubectl, "auth", "can-i", verb, thing, "-A", identity)
        assert refused.value.stdout.strip() == "no"


async def test_a_rotated_token_file_is_read_again(
    plane: ControlPlane,
    streams: Bus,
    start_on_plane: Start,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    grant(plane, [*RULES, KUBE_SYSTEM])
    token = tmp_path / "token"
    token.write_text("collector-token")
    running = start_on_plane(TOKEN_FILE=str(token))
    await wait_for_published(streams, contains(post_event(plane, "one")))
    token.write_text("next-token")
    tokens = plane.folder / "tokens.csv"
    tokens.write_text(tokens.read_text().replace("collector-token", "revoked-token"))
    await asyncio.to_thread(plane.kill, "kube-apiserver")
    await asyncio.to_thread(plane.start_apiserver)
    await wait_for_published(streams, contains(post_event(plane, "two")), 60)
    assert running.count("api_failures", status="401") == 0


async def test_two_replicas_share_one_lease(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    replicas = [start_on_plane(KUBERNETES_LEASE="default/kubernetes-collector") for _ in range(2)]

    def active() -> list[RunningCollector]:
        return [
            replica
            for replica in replicas
            if (state := replica.health.report().conditions.get("lease"))
            and state.detail == "active"
        ]

    await wait_until(lambda: len(active()) == 1, 20)
    expected = [post_event(plane, "one")]
    await wait_for_published(streams, contains(*expected))
    (first,) = active()
    await first.stop()
    replicas.remove(first)
    await wait_until(lambda: len(active()) == 1, 20)
    expected.append(post_event(plane, "two"))
    events = await wait_for_published(streams, contains(*expected))
    assert [int(body.resource_version) for body in select_test_events(events)] == expected
    record = plane.call(
        "GET", "/apis/coordination.k8s.io/v1/namespaces/default/leases/kubernetes-collector"
    )
    assert record["spec"]["leaseTransitions"] == 2
