"""The document that Sematext gets for an event: pure functions, one for each kind of event.

The names of the fields are those of Sematext's common schema
(https://sematext.com/docs/tags/common-schema/), the texts those of its agent
(https://sematext.com/docs/agents/sematext-agent/events/). docs/events.md lists all of them. Names
are dotted and flat, and none is the beginning of another, because a receiver may read the dots as
objects.
"""

from __future__ import annotations

from typing import Any

import msgspec

from sematext_agent.shared import AGENT_NAME
from sematext_agent.shared.events import (
    AgentLifecycle,
    DockerEvent,
    Event,
    Gap,
    HostFacts,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
)
from sematext_agent.shared.severity import exit_code, severity_of

Document = dict[str, Any]

TYPE = "infra"
"""The type of every event of the Sematext Agent; Sematext's screens of hosts select by it."""

_LABEL_TAGS_MAX = 32
_encoder = msgspec.json.Encoder()


def encode(document: Document) -> bytes:
    """Return the document as it is posted."""
    return _encoder.encode(document)


def build_document(event: Event, facts: HostFacts | None, tags: tuple[str, ...] = ()) -> Document:
    """Return the document for `event`, with the facts of its host and the user's tags."""
    document: Document = {
        "timestamp": event.time,
        "os.host": event.origin,
        "type": TYPE,
        "severity": severity_of(event.body),
        "creator": AGENT_NAME,
        "event.id": event.id,
    }
    source, fields = _describe(event)
    document.update(fields)
    document["tags"] = [f"source:{source}", *tags, *document.get("tags", ())]
    if facts is not None:
        document.update(_host(facts))
    return {name: value for name, value in document.items() if value not in ("", None)}


def _describe(event: Event) -> tuple[str, Document]:
    """Return the event's source, and its body in Sematext's fields."""
    match event.body:
        case DockerEvent() as body:
            return "docker", _docker(body, event.origin)
        case KubernetesEvent() as body:
            return "kubernetes", _kubernetes(body, event.origin)
        case OutOfMemory() as body:
            return "oom", _out_of_memory(body)
        case PackageChange() as body:
            return "package", _package(body, event.origin)
        case AgentLifecycle() as body:
            return "agent", _lifecycle(body, event)
        case Gap() as body:
            return "agent", _gap(body, event.origin)


def _host(facts: HostFacts) -> Document:
    return {
        "os.distro.name": facts.distro_name,
        "os.distro.version": facts.distro_version,
        "os.kernel": facts.kernel,
        "virtualization": _virtualization(facts),
        "cloud.type": _CLOUDS.get(facts.cloud_provider.lower(), facts.cloud_provider),
        "cloud.region": facts.cloud_region,
        "cloud.zone": facts.cloud_zone,
        "cloud.instance.id": facts.cloud_instance_id,
        "cloud.instance.type": facts.cloud_instance_type,
    }


# The schema knows three virtualizations, and has its own spelling of the clouds.
_CONTAINERS = frozenset({"container", "docker", "podman", "lxc", "containerd", "systemd-nspawn"})
_CLOUDS = {"aws": "AWS", "gcp": "GCE", "gce": "GCE", "azure": "Azure"}


def _virtualization(facts: HostFacts) -> str:
    if facts.virtualization.lower() in _CONTAINERS:
        return "Container"
    return "VM" if facts.virtualization else "BareMetal"


def _docker(body: DockerEvent, host: str) -> Document:
    own_name = body.attributes.get("name", "")
    name = own_name or ", ".join(body.image_tags) or _short(body.actor_id)
    # The labels stand in the message, as with the Sematext Agent, because it is searched.
    pairs = [f"{key}: {value}" for key, value in sorted(body.attributes.items()) if key != "name"]
    if body.image_tags:
        pairs.append(f"tags: {' '.join(body.image_tags)}")
    pairs += [f"{key}: {value}" for key, value in sorted(body.labels.items())]
    details = ", ".join(pairs)
    words = [word for word in (body.type, body.action, own_name, body.actor_id, details) if word]
    message = "Docker Event: " + " ".join(words)
    if body.synthetic:
        message += " (not told by the engine, but found afterwards)"
    return {
        "title": f"docker {body.action} {body.type} {name}".rstrip(),
        "message": message,
        "container.object": body.type,
        "container.status": body.action,
        "event.synthetic": body.synthetic or None,
        **(_container(body, host) if body.type == "container" else _other_object(body)),
    }


def _container(body: DockerEvent, host: str) -> Document:
    image = body.attributes.get("image", "")
    return {
        "container.name": body.attributes.get("name", ""),
        "container.id": body.actor_id,
        "container.image": image,
        "container.from": image,
        "container.type": "docker",
        "container.host.hostname": host,
        "docker.exit_code": exit_code(body),
        "docker.signal": body.attributes.get("signal"),
    }


def _other_object(body: DockerEvent) -> Document:
    """Return the fields of an image, a volume, a network …: its name is not a container's."""
    name = body.attributes.get("name", "")
    image = (body.image_tags[0] if body.image_tags else name) if body.type == "image" else ""
    return {
        # Of the container that was connected to the network, or that mounted the volume.
        "container.id": body.attributes.get("container", ""),
        "container.image": image,
        "docker.actor.id": body.actor_id,
        "docker.actor.name": name,
    }


def _short(id: str) -> str:  # noqa: A002
    """Return an id as the engine's own commands shorten it."""
    algorithm, colon, digest = id.rpartition(":")
    return digest[:12] if not colon or algorithm == "sha256" else id


def _kubernetes(body: KubernetesEvent, cluster: str) -> Document:
    name = f"{body.namespace}/{body.name}" if body.namespace else body.name
    nothing = "Kubernetes event"
    return {
        # The host it happened on, where there is one.
        "os.host": body.node or cluster,
        "title": " ".join(word for word in (body.reason, body.kind, name) if word) or nothing,
        # The receiver wants a message; an event without one has a reason.
        "message": body.message or body.reason or nothing,
        # The cluster's own word, because Sematext's screen of a cluster's events is stacked by
        # Normal and Warning.
        "severity": body.type or "Normal",
        "tags": [f"{key}:{value}" for key, value in sorted(body.labels.items())][:_LABEL_TAGS_MAX],
        "kubernetes.namespace": body.namespace,
        "kubernetes.name": body.name,
        "kubernetes.cluster.name": body.cluster or cluster,
        "kubernetes.reason": body.reason,
        "kubernetes.kind": body.kind,
        "kubernetes.node": body.node,
        "kubernetes.pod.name": body.name if body.kind == "Pod" else "",
        "kubernetes.controller": body.controller,
        "kubernetes.owner": body.owner,
        "kubernetes.count": body.count,
    }


def _out_of_memory(body: OutOfMemory) -> Document:
    return {
        "title": f"OOM killer terminated {body.process}",
        "message": (
            f"{body.process} process with pid {body.pid} terminated by OOM killer. "
            f"Total allocated memory {body.memory} bytes"
        ),
        "process.name": body.process,
        "process.pid": body.pid,
        "oom.memory.resident": body.memory,
        "oom.memory.anonymous": body.anonymous,
        "oom.memory.file": body.file,
        "oom.memory.shared": body.shared,
        "oom.memory.virtual": body.virtual,
        "oom.uid": body.uid,
        "oom.score_adj": body.oom_score_adj,
        "oom.constraint": body.constraint,
        "oom.cgroup": body.cgroup,
        "oom.limit_cgroup": body.limit_cgroup,
        "container.id": body.container_id,
        "container.name": body.container_name,
        "kubernetes.pod.uid": body.pod_uid,
    }


def _package(body: PackageChange, host: str) -> Document:
    return {
        "title": f"Package {body.name} {body.change}",
        "message": (
            f"Package {body.name}, version {body.version} has been {body.change} on host {host}"
        ),
        "package.name": body.name,
        "package.version": body.version,
        "package.type": body.manager,
        "package.architecture": body.architecture,
        "package.previous_version": body.previous_version,
        "package.next_version": body.next_version,
        "package.path": body.path,
        "package.transaction": body.transaction,
        "container.id": body.container_id,
        "container.name": body.container_name,
        "container.image": body.container_image,
    }


def _lifecycle(body: AgentLifecycle, event: Event) -> Document:
    name = f"agent_{body.state}"
    message = f"{name} {AGENT_NAME} {event.agent} / on {event.origin}"
    if not body.clean:
        message += f": it ended without a word and was last alive at {event.time}"
    return {
        "title": f"{name} on {event.origin}",
        "message": message,
        "agent.version": event.agent,
        "agent.run": body.run,
        "agent.clean": body.clean if body.state == "stopped" else None,
    }


def _gap(body: Gap, origin: str) -> Document:
    lost = "events" if body.lost is None else f"{body.lost} events"
    return {
        "title": f"{lost} of {body.source} may be missing",
        "message": (
            f"{lost} of {body.source} on {origin} may be missing between {body.since} and "
            f"{body.until}: {body.detail or body.reason}"
        ),
        "gap.source": body.source,
        "gap.reason": body.reason,
        "gap.since": body.since,
        "gap.until": body.until,
        "gap.lost": body.lost,
    }
