"""The messages that cross the bus: the contract between every two processes.

Collectors and the forwarder are upgraded one at a time, so the contract only grows: fields are
added with a default, never renamed, retyped or removed, and a reader skips what it does not know.
Bodies hold the source's own data in the source's own terms. Sematext's field names begin in the
forwarder, so that another destination needs no change in a collector.

On the wire an event is JSON, so that any NATS client can read a tap.
"""

from __future__ import annotations

import datetime
import functools
import hashlib
from typing import Annotated, Literal, get_args

import msgspec

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.decode_errors import DECODE_ERRORS

NS_PER_SECOND = 1_000_000_000

Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A time since the epoch in a cursor: up to the year 2262."""
_SECONDS_MAX = 253_402_300_799  # the year 9999

EVENT_BYTES_MAX = 256 * 1024
"""Size of the largest encoded event. The stream refuses a larger one, so a collector replaces it
with a `Gap`."""


class _Body(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """The base of all bodies: on the wire the field `event` names the kind."""


class DockerEvent(_Body, frozen=True, tag="docker"):
    """One message of the Docker Engine's event stream (Engine API, `GET /events`)."""

    type: str
    """The kind of object: container, image, volume, network, plugin, daemon, service …"""
    action: str
    """The engine's whole action: `start`, `exec_start: sh`, `health_status: healthy` …"""
    actor_id: str
    """The object's id; empty for `prune`."""
    attributes: dict[str, str] = {}
    """The engine's own attributes of the object (`exitCode`, `signal`, `name`, `image` …)."""
    labels: dict[str, str] = {}
    """The object's labels, kept apart, because the engine lets a label overwrite an attribute."""
    scope: str = "local"
    """`local` or `swarm`."""
    image_tags: tuple[str, ...] = ()
    """The tags an image had before `untag` or `delete`, whose messages no longer name them."""
    synthetic: bool = False
    """True for an event that the engine did not send: the result of a reconciliation."""


class KubernetesEvent(_Body, frozen=True, tag="kubernetes"):
    """One revision of a Kubernetes event (core/v1 Event, the same object as events.k8s.io/v1)."""

    uid: str
    """Of the event object; together with `resource_version` it names one revision."""
    resource_version: str
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    """`Normal` or `Warning`, by the cluster's judgement."""
    cluster: str = ""
    namespace: str = ""
    """Of the object the event is about; empty for cluster-wide kinds."""
    kind: str = ""
    name: str = ""
    object_uid: str = ""
    node: str = ""
    controller: str = ""
    """The reporter: `kubelet`, `default-scheduler` …"""
    count: int = 1
    """Number of its occurrences so far."""
    action: str = ""
    owner: str = ""
    """`Deployment/web` where enrichment found the owner."""
    labels: dict[str, str] = {}


class OutOfMemory(_Body, frozen=True, tag="oom_kill"):
    """One process killed by the kernel's out-of-memory killer. Sizes are bytes."""

    process: str
    pid: int
    """In the host's pid namespace."""
    memory: int
    """Resident memory when killed, which the kill freed: anonymous + file + shared."""
    anonymous: int = 0
    file: int = 0
    shared: int = 0
    virtual: int = 0
    """Reserved address space (`total-vm`), usually far above what was resident."""
    uid: int | None = None
    oom_score_adj: int | None = None
    constraint: str = ""
    """The kind of the limit: `memcg`, `none` (the whole host), `cpuset` …"""
    cgroup: str = ""
    """The cgroup of the process."""
    limit_cgroup: str = ""
    """The cgroup whose limit was hit."""
    container_id: str = ""
    container_name: str = ""
    pod_uid: str = ""


class PackageChange(_Body, frozen=True, tag="package"):
    """One package that was installed on or removed from a host or a running container."""

    change: Literal["installed", "removed"]
    manager: Literal["deb", "rpm", "node", "python2", "python3"]
    name: str
    version: str
    architecture: str = ""
    previous_version: str = ""
    """On `installed`: the version an upgrade replaced."""
    next_version: str = ""
    """On `removed`: the version an upgrade put in its place."""
    path: str = ""
    """The root that holds it, for kinds that have many (a venv, a node_modules)."""
    transaction: str = ""
    """Shared by the changes of one diff."""
    container_id: str = ""
    container_name: str = ""
    container_image: str = ""


class AgentLifecycle(_Body, frozen=True, tag="lifecycle"):
    """One start or stop of the agent on a host."""

    state: Literal["started", "stopped"]
    run: str
    """The name of one run of the agent, from its start to its stop."""
    clean: bool = True
    """False for a stop without an event, which the next start reports."""


class Gap(_Body, frozen=True, tag="gap"):
    """A span in which events may be missing, because the source or a bound forgot them."""

    source: str
    """`docker`, `kubernetes`, `host`, `lifecycle` or `forwarder`."""
    reason: str
    """A fixed word: `overflow`, `engine_restarted`, `expired`, `too_large` …"""
    since: str
    """The last time before the gap, RFC 3339."""
    until: str
    """The first time after it, RFC 3339."""
    detail: str = ""
    """The same for a person, in a sentence."""
    lost: int | None = None
    """Number of lost events, where it is known."""


Body = DockerEvent | KubernetesEvent | OutOfMemory | PackageChange | AgentLifecycle | Gap


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """The envelope of every event, around the body from its source."""

    id: str
    """Made from the source's own identity, never random and never from a clock of ours."""
    time: str
    """The time by the source's clock: RFC 3339, UTC, nanoseconds. See `format_rfc3339`."""
    origin: str
    """The host's or the cluster's name."""
    agent: str
    """The version of the agent that published it."""
    body: Body


class HostFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The facts of a host for the readers of its events; one record a host, key = the origin."""

    hostname: str
    os_family: str = ""
    """`linux`."""
    distro_name: str = ""
    distro_version: str = ""
    kernel: str = ""
    architecture: str = ""
    virtualization: str = ""
    """`kvm`, `vmware`, `container` … or empty on bare metal."""
    cloud_provider: str = ""
    cloud_region: str = ""
    cloud_zone: str = ""
    cloud_instance_id: str = ""
    cloud_instance_type: str = ""
    boot_id: str = ""
    cpu_count: int = 0
    memory_bytes: int = 0


class NewerEventError(msgspec.DecodeError):
    """An event whose form only a newer version of the agent knows."""


class _AnyBody(msgspec.Struct):
    event: str


class _AnyEvent(msgspec.Struct):
    """The part of an event that all versions share."""

    id: str
    time: str
    origin: str
    agent: str
    body: _AnyBody


_encoder = msgspec.json.Encoder()
_decoder = msgspec.json.Decoder(Event)
_any_decoder = msgspec.json.Decoder(_AnyEvent)
_TAGS = frozenset(str(body.__struct_config__.tag) for body in get_args(Body))


def encode(event: Event) -> bytes:
    """Return the event as the bus carries it."""
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """Return the event in a message.

    Raises:
        NewerEventError: it has a body, or a value in it, that this version does not know.
        msgspec.DecodeError: it is anything else but an event.
    """
    try:
        return _decoder.decode(payload)
    except DECODE_ERRORS as error:
        _raise_if_newer(payload, error)
        if isinstance(error, msgspec.DecodeError):
            raise
        raise msgspec.DecodeError(str(error)) from error


def _raise_if_newer(payload: bytes, problem: Exception) -> None:
    try:
        event = _any_decoder.decode(payload)
    except DECODE_ERRORS:
        return
    if event.body.event not in _TAGS or _parse_version(event.agent) > _parse_version(AGENT_VERSION):
        raise NewerEventError(
            f"of agent {event.agent[:64]}: its `{event.body.event[:64]}` has a form that "
            f"{AGENT_VERSION} does not know"
        ) from problem


def _parse_version(text: str) -> tuple[int, ...]:
    """Return `1.20.3` as numbers to compare; a text that is no version is the lowest."""
    return tuple(int(part) for part in text.split(".") if part.isdecimal() and len(part) < 9)


def format_rfc3339(nanoseconds: int) -> str:
    """Return `1795423877628168185` as `2026-11-23T09:31:17.628168185Z`.

    A string on the bus, because a JSON number of that size loses its last digits in most readers.
    A time before 1970 or after 9999, of a wrong file or clock, becomes the nearest in that span:
    better an event at a wrong time than none.
    """
    seconds, fraction = divmod(max(0, nanoseconds), NS_PER_SECOND)
    seconds = min(seconds, _SECONDS_MAX)
    return f"{_format_second(seconds)}.{fraction:09d}Z"


@functools.lru_cache(maxsize=64)
def _format_second(seconds: int) -> str:
    # For many events in the same second this is a good part of the cost.
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(time: str) -> int:
    """Return nanoseconds since the epoch: the inverse of `format_rfc3339`. Raises ValueError."""
    moment, _, fraction = time.removesuffix("Z").partition(".")
    seconds = datetime.datetime.fromisoformat(moment + "+00:00").timestamp()
    return int(seconds) * NS_PER_SECOND + int(fraction.ljust(9, "0")[:9] or 0)


def event_id(*identity: object) -> str:
    """Return the id of the event that `identity` names at its source: 32 hexadecimal digits.

    Two different lists of parts have different ids.
    """
    joined = _encoder.encode([str(part) for part in identity])
    return hashlib.blake2b(joined, digest_size=16).hexdigest()
