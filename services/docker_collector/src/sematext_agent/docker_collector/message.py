"""Messages of the engine: the value that passes along the path, its identity and its attributes."""

from __future__ import annotations

import msgspec

from sematext_agent.shared.events import event_id


class EngineMessage(msgspec.Struct, frozen=True):
    """A message of the engine, its secrets masked."""

    type: str
    action: str
    """The whole action: `start`, `exec_start: sh -c …`, `health_status: healthy` …"""
    verb: str
    """The action without the text that may follow it: `exec_start`."""
    object_id: str
    """Empty for `prune`; the name of an image that is pulled or pushed."""
    attributes: dict[str, str]
    """The attributes and labels, as mixed as the engine sends them."""
    scope: str
    time_ns: int
    """The time of the action, in nanoseconds since the epoch."""


class EngineObject(msgspec.Struct, frozen=True):
    """The facts about the object of a message that the message itself lacks."""

    labels: dict[str, str] | None = None
    """None where they could not be learned."""
    image_tags: tuple[str, ...] = ()
    exit_code: int | None = None
    """Exit code from the inspection of an ended container whose label hides it."""
    is_health_check: bool = False
    """True for an exec of a health check, and for a health equal to the one reported before."""
    joined_container: tuple[str, str] | None = None
    """Name and image of the container that a network or a volume is attached to."""


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
"""By action, the attributes the engine adds to `name` and `image` (moby, API 1.41 to 1.56)."""
PLAIN_ACTIONS = frozenset(action for action, names in OWN_ATTRIBUTES.items() if not names)
"""The actions to which the engine adds nothing: every other attribute is a label."""


def identify(message: EngineMessage, host: str) -> str:
    """Return the event's id, which is the same at every reading and over every connection.

    Every manager of a swarm reports an event of swarm scope with the time of the leader's store, so
    the host is no part of it. Each takes its own time for `remove`, but an object is removed once.
    """
    parts: tuple[object, ...] = (message.type, message.action, message.object_id)
    if message.scope == "swarm":
        if message.action == "remove":
            return event_id("docker", "swarm", *parts)
        host = "swarm"
    attributes = message.attributes
    return event_id(
        "docker",
        host,
        *parts,
        message.time_ns,
        *[part for name in sorted(attributes) for part in (name, attributes[name])],
    )
