"""From a message of the engine to an event: pure, and shown by recorded messages.

The engine copies an object's labels over its own attributes (moby: `LogContainerEvent`), so that a
container with the label `exitCode=0` seems to end well whatever happens. Here both are told apart,
and an attribute that a label has overwritten is left out unless the true value is known.
"""

from __future__ import annotations

from typing import Annotated

import msgspec

from sematext_agent.docker_collector.masking import mask
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import (
    NS_PER_SECOND,
    DockerEvent,
    Event,
    Nanoseconds,
    event_id,
    format_rfc3339,
)


class _Actor(msgspec.Struct):
    id: str = msgspec.field(name="ID", default="")
    attributes: dict[str, str] | None = msgspec.field(name="Attributes", default=None)


_NO_ACTOR = _Actor()


class _Line(msgspec.Struct, rename={"type": "Type", "action": "Action", "actor": "Actor"}):
    """One line of `GET /events`, without the `status`, `id` and `from` that API 1.52 took away."""

    type: str
    action: str
    actor: _Actor | None = None
    scope: str = "local"
    time: Annotated[int, msgspec.Meta(ge=0, le=2**63 // NS_PER_SECOND)] = 0
    """Seconds since the epoch."""
    timeNano: Nanoseconds = 0  # noqa: N815 - as the engine spells it
    """The whole moment in nanoseconds since the epoch, not the fraction."""


class Message(msgspec.Struct, frozen=True):
    """What the engine says has happened, its secrets masked."""

    type: str
    action: str
    """Whole: `start`, `exec_start: sh -c …`, `health_status: healthy` …"""
    verb: str
    """The action without the text that may follow it: `exec_start`."""
    id: str
    """The object's; empty for `prune`, and of an image that is pulled or pushed its name."""
    attributes: dict[str, str]
    """The attributes and labels, as mixed as the engine sends them."""
    scope: str
    nanoseconds: int
    """When it happened, since the epoch."""


_decoder = msgspec.json.Decoder(_Line)


def decode(line: bytes) -> Message:
    """The message in a line of the stream.

    Raises:
        One of DECODE_ERRORS: the line is not JSON, or not a message.
    """
    given = _decoder.decode(line)
    action = given.action
    if action.startswith("exec_"):
        action = mask(action)
    actor = given.actor or _NO_ACTOR
    moment = given.timeNano or given.time * NS_PER_SECOND
    return Message(
        given.type,
        action,
        action.partition(":")[0],
        actor.id,
        actor.attributes or {},
        given.scope,
        moment,
    )


class Known(msgspec.Struct, frozen=True):
    """What is known of the object of a message beyond the message itself."""

    labels: dict[str, str] | None = None
    """None where they could not be learned."""
    image_tags: tuple[str, ...] = ()
    exit_code: int | None = None
    """Of an ended container, from an inspection; asked for where a label hides it."""


OWN_ATTRIBUTES: dict[str, frozenset[str]] = {
    "die": frozenset({"exitCode", "execDuration"}),
    "kill": frozenset({"signal"}),
    "rename": frozenset({"oldName"}),
    "resize": frozenset({"width", "height"}),
    "commit": frozenset({"comment", "imageID", "imageRef"}),
    "exec_create": frozenset({"execID"}),
    "exec_start": frozenset({"execID"}),
    "exec_detach": frozenset({"execID"}),
    "exec_die": frozenset({"execID", "exitCode"}),
    "prune": frozenset({"reclaimed"}),
} | dict.fromkeys(
    (
        "create",
        "start",
        "restart",
        "stop",
        "pause",
        "unpause",
        "attach",
        "detach",
        "export",
        "top",
        "update",
        "destroy",
        "archive-path",
        "extract-to-dir",
        "oom",
        "copy",
        "health_status",
        "tag",
        "untag",
        "import",
        "load",
        "save",
        "delete",
        "pull",
        "push",
    ),
    frozenset(),
)
"""By action, what the engine itself adds to `name` and `image` (moby, API 1.41 to 1.56)."""
PLAIN = frozenset(action for action, own in OWN_ATTRIBUTES.items() if not own)
"""The actions to which it adds nothing: all else in them is labels."""


def identity(message: Message, host: str) -> str:
    """The id of the event: the same however often, and by whichever connection, it is read.

    Every manager of a swarm tells an event of swarm scope, with the time of the leader's store, so
    the host is left out; but for `remove` each takes its own time, and an object is removed once.
    """
    parts: tuple[object, ...] = (message.type, message.action, message.id)
    if message.scope == "swarm":
        if message.action == "remove":
            return event_id("docker", "swarm", *parts)
        host = "swarm"
    attributes = message.attributes
    return event_id(
        "docker",
        host,
        *parts,
        message.nanoseconds,
        *[part for name in sorted(attributes) for part in (name, attributes[name])],
    )


def translate(message: Message, identifier: str, origin: str, known: Known) -> Event:
    """The event that `message` tells of, with what is known of its object."""
    attributes, labels = _separate(message, known)
    return Event(
        id=identifier,
        time=format_rfc3339(message.nanoseconds),
        origin=origin,
        agent=AGENT_VERSION,
        body=DockerEvent(
            type=message.type,
            action=message.action,
            actor_id=message.id,
            attributes=attributes,
            labels=labels,
            scope=message.scope,
            image_tags=known.image_tags,
        ),
    )


def _separate(message: Message, known: Known) -> tuple[dict[str, str], dict[str, str]]:
    """The engine's own attributes and the object's labels, which the engine sends as one."""
    given = message.attributes
    if message.type not in ("container", "image"):
        return given, {}  # The engine copies no labels for other types.
    verb = message.verb
    own = OWN_ATTRIBUTES.get(verb)
    if known.labels is None and own is None:
        return given, {}  # An action of a newer engine: better a label among the attributes.
    attributes: dict[str, str] = {}
    labels = {} if known.labels is None else known.labels
    for name, value in given.items():
        # These two are set after the labels were copied; an image event has no `image`.
        if name == "name" or (name == "image" and message.type == "container"):
            attributes[name] = value
        elif known.labels is not None:
            if name not in labels:
                attributes[name] = value
        elif own is not None and name in own and _plausible(name, value):
            attributes[name] = value
        else:
            labels[name] = value
    if known.exit_code is not None and verb == "die":
        attributes["exitCode"] = str(known.exit_code)
    return attributes, labels


def _plausible(name: str, value: str) -> bool:
    """Whether the engine itself could have given this value."""
    numeric = ("exitCode", "execDuration", "signal", "width", "height")
    return name not in numeric or value.removeprefix("-").isdigit()
