"""The chart installed, upgraded and removed by helm on a real kube-apiserver, and its rights there.

No pod runs, as there is no kubelet and no controller: the tests show that the API accepts all
manifests, and the rights of the Kubernetes collector's account.
"""

from __future__ import annotations

import asyncio
import base64
import json
import os
import shutil
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from control_plane import ADMIN, ControlPlane, missing_assets
from kubernetes_api import kubeconfig

ROOT = Path(__file__).parents[2]
HELM = shutil.which("helm", path=f"{ROOT}/.venv/chart-tools:{os.environ.get('PATH', '')}") or ""
pytestmark = [
    pytest.mark.skipif(bool(missing_assets()), reason=missing_assets() or "-"),
    pytest.mark.skipif(not HELM, reason="no helm: run tests/chart_tools.sh .venv/chart-tools"),
]
ACCOUNT = "--as=system:serviceaccount:monitoring:agent-kubernetes-collector"


@pytest.fixture
async def plane(tmp_path: Path) -> AsyncIterator[ControlPlane]:
    running = ControlPlane(tmp_path)
    await asyncio.to_thread(running.start)
    yield running
    await asyncio.to_thread(running.stop)


async def helm(plane: ControlPlane, *arguments: str) -> None:
    config = kubeconfig(
        plane.folder / "helm", plane.url, token=ADMIN, certificate_authority=str(plane.certificate)
    )
    command = (HELM, *arguments, "--namespace", "monitoring", "--kubeconfig", str(config))
    environ = {**os.environ, "HELM_CACHE_HOME": str(plane.folder / "cache")}
    done = await asyncio.to_thread(
        subprocess.run, command, capture_output=True, text=True, env=environ, timeout=120
    )
    assert done.returncode == 0, done.stderr


def may(plane: ControlPlane, verb: str, thing: str, *where: str) -> bool:
    try:
        answer = plane.kubectl("auth", "can-i", verb, thing, *where, ACCOUNT)
    except subprocess.CalledProcessError as refused:
        answer = refused.stdout
    return {"yes": True, "no": False}[answer.strip()]


def password(plane: ControlPlane) -> str:
    secret = plane.call("GET", "/api/v1/namespaces/monitoring/secrets/agent-nats")
    return base64.b64decode(secret["data"]["password"]).decode()


async def test_it_is_installed_upgraded_and_removed(plane: ControlPlane) -> None:
    chart = str(ROOT / "deploy/helm")
    await helm(plane, "install", "agent", chart, "--create-namespace")
    first_password = password(plane)
    assert len(first_password) == 41
    daemons = plane.call("GET", "/apis/apps/v1/namespaces/monitoring/daemonsets")["items"]
    assert [daemon["metadata"]["name"] for daemon in daemons] == ["agent-node"]

    await helm(plane, "upgrade", "agent", chart, "--set", "clusterName=prod,forwarder.replicas=2")
    assert password(plane) == first_password
    scaled = plane.call("GET", "/apis/apps/v1/namespaces/monitoring/deployments/agent-forwarder")
    assert scaled["spec"]["replicas"] == 2

    await helm(plane, "uninstall", "agent")
    for path in (
        "/api/v1/namespaces/monitoring/secrets",
        "/apis/apps/v1/statefulsets",
        "/apis/rbac.authorization.k8s.io/v1/namespaces/monitoring/roles",
    ):
        assert plane.call("GET", path)["items"] == [], path


async def test_the_collector_has_the_rights_it_needs_and_no_other(plane: ControlPlane) -> None:
    if not plane.has("kubectl"):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl")
    chart = str(ROOT / "deploy/helm")
    lease = ("leases/agent-kubernetes-collector", "-n", "monitoring")
    await helm(plane, "install", "agent", chart, "--create-namespace")

    def check() -> None:
        for verb in ("list", "watch"):
            assert may(plane, verb, "events", "-A")
        for verb in ("get", "update"):
            assert may(plane, verb, *lease)
        assert may(plane, "create", "leases", "-n", "monitoring")
        assert may(plane, "get", "namespaces/kube-system")
        for forbidden in (
            "list secrets",
            "get secrets",
            "list pods",
            "get events",
            "create events",
            "list namespaces",
            "get namespaces/default",
            "delete leases",
            "list nodes",
        ):
            assert not may(plane, *forbidden.split(), "-A"), forbidden
        assert not may(plane, "update", "leases/another", "-n", "monitoring")

    await asyncio.to_thread(check)


async def test_a_collector_of_a_single_namespace_reads_no_other(plane: ControlPlane) -> None:
    if not plane.has("kubectl"):
        pytest.skip("KUBEBUILDER_ASSETS has no kubectl")
    await asyncio.to_thread(plane.kubectl, "create", "namespace", "shop")
    await helm(
        plane,
        "install",
        "agent",
        str(ROOT / "deploy/helm"),
        "--create-namespace",
        "--set",
        "clusterName=prod",
        "--set",
        "kubernetesCollector.settings.KUBERNETES_EVENTS_NAMESPACE=shop",
    )

    def check() -> None:
        assert may(plane, "list", "events", "-n", "shop")
        assert not may(plane, "list", "events", "-n", "default")
        assert not may(plane, "get", "namespaces/kube-system")
        roles = plane.call("GET", "/apis/rbac.authorization.k8s.io/v1/clusterroles")["items"]
        assert [role for role in roles if "sematext" in json.dumps(role["metadata"])] == []

    await asyncio.to_thread(check)
