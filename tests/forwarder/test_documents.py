"""Golden documents: what Sematext gets for each kind of event, field by field."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.forwarder.documents import build_document, encode
from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    HostFacts,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
)

TIME = "2026-11-23T09:31:17.628168185Z"
CONTAINER = "4f" * 32
COMMON = {
    "timestamp": TIME,
    "os.host": "web-01",
    "type": "infra",
    "severity": "info",
    "creator": "sematext-agent",
    "event.id": "0123456789abcdef0123456789abcdef",
}


def document(body: Body, origin: str = "web-01", **arguments: Any) -> dict[str, Any]:
    event = Event(
        id="0123456789abcdef0123456789abcdef", time=TIME, origin=origin, agent="1.2.3", body=body
    )
    facts = arguments.pop("facts", None)
    decoded: dict[str, Any] = json.loads(encode(build_document(event, facts, **arguments)))
    return decoded


def docker(kind: str, action: str, **more: Any) -> DockerEvent:
    return DockerEvent(type=kind, action=action, **{"actor_id": CONTAINER, **more})


def test_the_document_of_a_container_event() -> None:
    body = docker(
        "container",
        "die",
        attributes={"name": "web", "image": "nginx:1.25", "exitCode": "137", "execDuration": "4"},
        labels={"maintainer": "NGINX", "exitCode": "spoofed"},
    )
    assert document(body) == COMMON | {
        "title": "docker die container web",
        "message": (
            f"Docker Event: container die web {CONTAINER} execDuration: 4, exitCode: 137, "
            "image: nginx:1.25, exitCode: spoofed, maintainer: NGINX"
        ),
        "severity": "warning",
        "container.name": "web",
        "container.id": CONTAINER,
        "container.image": "nginx:1.25",
        "container.object": "container",
        "container.from": "nginx:1.25",
        "container.status": "die",
        "container.type": "docker",
        "container.host.hostname": "web-01",
        "docker.exit_code": 137,
        "tags": ["source:docker"],
    }


def test_network_and_volume_events_name_their_container() -> None:
    body = docker(
        "network", "connect", attributes={"name": "bridge", "type": "bridge", "container": "ab12"}
    )
    assert document(body) == COMMON | {
        "title": "docker connect network bridge",
        "message": (
            f"Docker Event: network connect bridge {CONTAINER} container: ab12, type: bridge"
        ),
        "container.object": "network",
        "container.status": "connect",
        "container.id": "ab12",
        "docker.actor.id": CONTAINER,
        "docker.actor.name": "bridge",
        "tags": ["source:docker"],
    }


def test_untagged_image_is_called_by_the_tag_it_had() -> None:
    digest = "sha256:" + "ab" * 32
    body = docker(
        "image", "untag", actor_id=digest, attributes={"name": digest}, image_tags=("shop/web:2",)
    )
    result = document(body)
    assert result["container.image"] == "shop/web:2"
    assert result["message"].startswith("Docker Event: image untag ")
    assert "shop/web:2" in result["message"]


def test_prune_which_names_nothing() -> None:
    body = docker("image", "prune", actor_id="", attributes={"reclaimed": "1024"})
    result = document(body)
    assert result["title"] == "docker prune image"
    assert result["message"] == "Docker Event: image prune reclaimed: 1024"


def test_a_synthetic_event_is_marked() -> None:
    result = document(docker("container", "die", attributes={"name": "web"}, synthetic=True))
    assert result["event.synthetic"] is True
    # Users may search for this text, which is that of 0.1.0.
    assert result["message"].endswith(" (not told by the engine, but found afterwards)")


@pytest.mark.parametrize(
    ("kind", "action", "attributes", "severity"),
    [
        ("container", "start", {}, "info"),
        ("container", "kill", {"signal": "9"}, "info"),
        ("container", "die", {"exitCode": "0"}, "info"),
        ("container", "die", {"exitCode": "143"}, "info"),
        ("container", "die", {"exitCode": "130"}, "info"),
        ("container", "die", {"exitCode": "137"}, "warning"),
        ("container", "die", {}, "warning"),
        ("container", "die", {"exitCode": "1"}, "error"),
        ("container", "die", {"exitCode": "139"}, "error"),
        ("container", "oom", {}, "error"),
        ("container", "health_status: healthy", {}, "info"),
        ("container", "health_status: unhealthy", {}, "warning"),
        ("container", "exec_die", {"exitCode": "1"}, "info"),
        ("image", "delete", {}, "info"),
        ("node", "update", {"state.new": "down"}, "warning"),
        ("node", "update", {"state.new": "ready"}, "info"),
        ("service", "update", {"updatestate.new": "rollback_started"}, "warning"),
        ("service", "update", {"updatestate.new": "completed"}, "info"),
        ("something-new", "unheard-of", {}, "info"),
    ],
)
def test_severity_of_docker_events(
    kind: str, action: str, attributes: dict[str, str], severity: str
) -> None:
    assert document(docker(kind, action, attributes=attributes))["severity"] == severity


def test_the_document_of_a_kubernetes_event() -> None:
    body = KubernetesEvent(
        uid="u",
        resource_version="7",
        reason="BackOff",
        type="Warning",
        cluster="prod",
        message="Back-off restarting failed container",
        namespace="shop",
        kind="Pod",
        name="web-1",
        node="node-3",
        controller="kubelet",
        count=4,
        owner="Deployment/web",
        labels={"app": "web"},
    )
    assert document(body, origin="prod") == COMMON | {
        "os.host": "node-3",
        "title": "BackOff Pod shop/web-1",
        "message": "Back-off restarting failed container",
        "severity": "Warning",
        "kubernetes.namespace": "shop",
        "kubernetes.name": "web-1",
        "kubernetes.cluster.name": "prod",
        "kubernetes.reason": "BackOff",
        "kubernetes.kind": "Pod",
        "kubernetes.node": "node-3",
        "kubernetes.pod.name": "web-1",
        "kubernetes.controller": "kubelet",
        "kubernetes.owner": "Deployment/web",
        "kubernetes.count": 4,
        "tags": ["source:kubernetes", "app:web"],
    }


def test_kubernetes_event_with_few_fields() -> None:
    result = document(KubernetesEvent(uid="u", resource_version="7"), origin="prod")
    assert result["message"] == "Kubernetes event"
    assert result["severity"] == "Normal"
    assert result["os.host"] == "prod"
    assert result["kubernetes.cluster.name"] == "prod"


def test_the_document_of_an_oom_kill() -> None:
    body = OutOfMemory(
        process="java",
        pid=4711,
        memory=1073741824,
        anonymous=1073741000,
        file=824,
        virtual=9,
        uid=0,
        oom_score_adj=-5,
        constraint="memcg",
        cgroup="/docker/ab",
        container_name="web",
    )
    assert document(body) == COMMON | {
        "title": "OOM killer terminated java",
        "message": (
            "java process with pid 4711 terminated by OOM killer. "
            "Total allocated memory 1073741824 bytes"
        ),
        "severity": "error",
        "process.name": "java",
        "process.pid": 4711,
        "oom.memory.resident": 1073741824,
        "oom.memory.anonymous": 1073741000,
        "oom.memory.file": 824,
        "oom.memory.shared": 0,
        "oom.memory.virtual": 9,
        "oom.uid": 0,
        "oom.score_adj": -5,
        "oom.constraint": "memcg",
        "oom.cgroup": "/docker/ab",
        "container.name": "web",
        "tags": ["source:oom"],
    }


def test_package_installed_and_removed() -> None:
    body = PackageChange(
        change="installed",
        manager="deb",
        name="curl",
        version="8.1",
        architecture="amd64",
        previous_version="8.0",
    )
    assert document(body) == COMMON | {
        "title": "Package curl installed",
        "message": "Package curl, version 8.1 has been installed on host web-01",
        "package.name": "curl",
        "package.version": "8.1",
        "package.type": "deb",
        "package.architecture": "amd64",
        "package.previous_version": "8.0",
        "tags": ["source:package"],
    }
    removed = PackageChange(change="removed", manager="python3", name="six", version="1.16")
    assert document(removed)["message"] == (
        "Package six, version 1.16 has been removed on host web-01"
    )


def test_the_document_of_a_start_of_the_agent() -> None:
    assert document(AgentLifecycle(state="started", run="r1")) == COMMON | {
        "title": "agent_started on web-01",
        "message": "agent_started sematext-agent 1.2.3 / on web-01",
        "agent.version": "1.2.3",
        "agent.run": "r1",
        "tags": ["source:agent"],
    }


def test_agent_stopped_cleanly_and_uncleanly() -> None:
    clean = document(AgentLifecycle(state="stopped", run="r1"))
    assert clean["message"] == "agent_stopped sematext-agent 1.2.3 / on web-01"
    assert (clean["severity"], clean["agent.clean"]) == ("info", True)
    unclean = document(AgentLifecycle(state="stopped", run="r1", clean=False))
    assert unclean["message"] == (
        "agent_stopped sematext-agent 1.2.3 / on web-01: it ended without a word and was last "
        f"alive at {TIME}"
    )
    assert (unclean["severity"], unclean["agent.clean"]) == ("warning", False)


def test_the_document_of_a_gap() -> None:
    body = Gap(
        source="docker",
        reason="overflow",
        since="2026-11-23T09:00:00Z",
        until="2026-11-23T09:31:17Z",
        detail="the engine keeps 256 events only",
        lost=7,
    )
    assert document(body) == COMMON | {
        "title": "7 events of docker may be missing",
        "message": (
            "7 events of docker on web-01 may be missing between 2026-11-23T09:00:00Z and "
            "2026-11-23T09:31:17Z: the engine keeps 256 events only"
        ),
        "severity": "warning",
        "gap.source": "docker",
        "gap.reason": "overflow",
        "gap.since": "2026-11-23T09:00:00Z",
        "gap.until": "2026-11-23T09:31:17Z",
        "gap.lost": 7,
        "tags": ["source:agent"],
    }


def test_host_facts_and_user_tags_are_added() -> None:
    facts = HostFacts(
        hostname="web-01",
        distro_name="debian",
        distro_version="12",
        kernel="6.1.0",
        virtualization="kvm",
        cloud_provider="aws",
        cloud_region="eu-west-1",
        cloud_instance_id="i-1",
        cloud_instance_type="m5.large",
    )
    body = AgentLifecycle(state="started", run="r1")
    result = document(body, facts=facts, tags=("env:dev", "role:web"))
    assert result["tags"] == ["source:agent", "env:dev", "role:web"]
    assert {name: value for name, value in result.items() if name.split(".")[0] in _HOST_NAMES} == {
        "os.host": "web-01",
        "os.distro.name": "debian",
        "os.distro.version": "12",
        "os.kernel": "6.1.0",
        "virtualization": "VM",
        "cloud.type": "AWS",
        "cloud.region": "eu-west-1",
        "cloud.instance.id": "i-1",
        "cloud.instance.type": "m5.large",
    }


_HOST_NAMES = ("os", "virtualization", "cloud")

_texts = st.text(max_size=20)
_bodies: st.SearchStrategy[Body] = st.one_of(
    st.builds(DockerEvent, actor_id=_texts),
    st.builds(KubernetesEvent),
    st.builds(OutOfMemory),
    st.builds(PackageChange),
    st.builds(AgentLifecycle),
    st.builds(Gap),
)


@given(_bodies, st.builds(HostFacts))
def test_every_document_has_what_the_receiver_wants(body: Body, facts: HostFacts) -> None:
    """Whatever a source says, the required fields are there and no name is another's beginning."""
    event = Event(id="i", time=TIME, origin="web-01", agent="1", body=body)
    result = build_document(event, facts, ("env:dev",))
    assert result["type"] == "infra"
    assert result["message"]
    assert result["title"]
    assert result["severity"] in ("info", "warning", "error", "Normal")
    assert encode(result)
    for name in result:
        parents = [name[:dot] for dot, character in enumerate(name) if character == "."]
        assert not set(parents) & set(result)
