"""The messages that cross the bus: the contract between every two processes.

Collectors and the forwarder are upgraded one at a time, so the contract only grows: fields are
added with a default, never renamed, retyped or removed, and a reader skips what it does not know.
Bodies say what the source said in the source's own terms. Sematext's field names begin in the
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

NS_PER_SECOND = 1_000_000_000  # nanoseconds

Nanoseconds = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]
"""A moment since the epoch, as a cursor may hold one: up to the year 2262."""
_SECONDS_MAX = 253_402_300_799  # the year 9999

# The largest event, encoded, in bytes. The stream refuses a larger one; a collector replaces it
# with a Gap that says so.
EVENT_BYTES_MAX = 256 * 1024


class _Body(msgspec.Struct, frozen=True, kw_only=True, tag_field="event", omit_defaults=True):
    """What all bodies share: on the wire the field `event` says which one it is."""


class DockerEvent(_Body, frozen=True, tag="docker"):
    """One message of the Docker Engine's event stream (Engine API, `GET /events`)."""

    type: str
    """The kind of object: container, image, volume, network, plugin, daemon, service …"""
    action: str
    """What happened to it, whole: `start`, `exec_start: sh`, `health_status: healthy` …"""
    actor_id: str
    """The object's id; empty for `prune`."""
    attributes: dict[str, str] = {}
    """What the engine itself said of the object (`exitCode`, `signal`, `name`, `image` …)."""
    labels: dict[str, str] = {}
    """The object's labels, kept apart, because the engine lets a label overwrite an attribute."""
    scope: str = "local"
    """`local` or `swarm`."""
    image_tags: tuple[str, ...] = ()
    """The tags an image had before `untag` or `delete`, whose messages no longer name them."""
    synthetic: bool = False
    """True where the engine forgot to tell: found by comparing what exists with what existed."""


class KubernetesEvent(_Body, frozen=True, tag="kubernetes"):
    """One revision of a Kubernetes event (core/v1 Event, the same object as events.k8s.io/v1)."""

    uid: str
    """Of the event object; with `resource_version` it names one telling of it."""
    resource_version: str
    reason: str = ""
    message: str = ""
    type: str = "Normal"
    """`Normal` or `Warning`, as the cluster says."""
    cluster: str = ""
    namespace: str = ""
    """Of the object the event is about; empty for cluster-wide kinds."""
    kind: str = ""
    name: str = ""
    object_uid: str = ""
    node: str = ""
    controller: str = ""
    """Who reported it: `kubelet`, `default-scheduler` …"""
    count: int = 1
    """How often it has happened so far."""
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
    """Resident when killed: anonymous + file + shared; what the kill freed."""
    anonymous: int = 0
    file: int = 0
    shared: int = 0
    virtual: int = 0
    """Reserved address space (`total-vm`), usually far above what was resident."""
    uid: int | None = None
    oom_score_adj: int | None = None
    constraint: str = ""
    """Whose limit was hit: `memcg`, `none` (the whole host), `cpuset` …"""
    cgroup: str = ""
    """Where the process lived."""
    limit_cgroup: str = ""
    """Whose limit it was."""
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
    """Shared by the changes that were found at once."""
    container_id: str = ""
    container_name: str = ""
    container_image: str = ""


class AgentLifecycle(_Body, frozen=True, tag="lifecycle"):
    """One start or stop of the agent on a host."""

    state: Literal["started", "stopped"]
    run: str
    """Names one run of the agent, from its start to its stop."""
    clean: bool = True
    """False for a stop nobody told: the next start found it missing."""


class Gap(_Body, frozen=True, tag="gap"):
    """A span in which events may be missing, because the source or a bound forgot them."""

    source: str
    """`docker`, `kubernetes`, `host`, `lifecycle` or `forwarder`."""
    reason: str
    """One word for a machine: `overflow`, `engine_restarted`, `expired`, `too_large` …"""
    since: str
    """The last moment before the gap, RFC 3339."""
    until: str
    """The first moment after it, RFC 3339."""
    detail: str = ""
    """The same for a person, in a sentence."""
    lost: int | None = None
    """How many events, where it is known."""


Body = DockerEvent | KubernetesEvent | OutOfMemory | PackageChange | AgentLifecycle | Gap


class Event(msgspec.Struct, frozen=True, kw_only=True):
    """What every event has, around what its source said."""

    id: str
    """Made from the source's own identity, never random and never from a clock of ours."""
    time: str
    """When it happened by the source's clock: RFC 3339, UTC, nanoseconds. See `rfc3339`."""
    origin: str
    """The host's or the cluster's name."""
    agent: str
    """The version of the agent that saw it."""
    body: Body


class HostFacts(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What an event's reader wants to know of its host; one record a host, key = the origin."""

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
    """What every version's events have in common."""

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
    """The event as the bus carries it."""
    return _encoder.encode(event)


def decode(payload: bytes) -> Event:
    """The event in a message.

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
    if event.body.event not in _TAGS or _version(event.agent) > _version(AGENT_VERSION):
        raise NewerEventError(
            f"of agent {event.agent[:64]}, which tells of `{event.body.event[:64]}` in a form that "
            f"{AGENT_VERSION} does not know"
        ) from problem


def _version(text: str) -> tuple[int, ...]:
    """`1.20.3` for comparing; the lowest there is for what is no version."""
    return tuple(int(part) for part in text.split(".") if part.isdecimal() and len(part) < 9)


def format_rfc3339(nanoseconds: int) -> str:
    """`1795423877628168185` as `2026-11-23T09:31:17.628168185Z`.

    A string on the bus, because a JSON number of that size loses its last digits in most readers.
    A time before 1970 or after 9999, of a file or a clock that is wrong, becomes the nearest:
    better an event at a wrong time than none.
    """
    seconds, fraction = divmod(max(0, nanoseconds), NS_PER_SECOND)
    seconds = min(seconds, _SECONDS_MAX)
    return f"{_second(seconds)}.{fraction:09d}Z"


@functools.lru_cache(maxsize=64)
def _second(seconds: int) -> str:
    # Of many events in the same second, this is a good part of the cost.
    return f"{datetime.datetime.fromtimestamp(seconds, datetime.UTC):%Y-%m-%dT%H:%M:%S}"


def parse_rfc3339(time: str) -> int:
    """The inverse of `rfc3339`: nanoseconds since the epoch. Raises ValueError for another form."""
    moment, _, fraction = time.removesuffix("Z").partition(".")
    seconds = datetime.datetime.fromisoformat(moment + "+00:00").timestamp()
    return int(seconds) * NS_PER_SECOND + int(fraction.ljust(9, "0")[:9] or 0)


def event_id(*identity: object) -> str:
    """The id of the event that `identity` names at its source: 32 hexadecimal digits.

    The parts are joined so that no two lists of parts read the same.
    """
    joined = _encoder.encode([str(part) for part in identity])
    return hashlib.blake2b(joined, digest_size=16).hexdigest()
