"""Translate: the last stage, from a message and its object to an event. It is pure.

The engine copies an object's labels over its own attributes (moby: `LogContainerEvent`), so a
container with the label `exitCode=0` would seem to end well whatever happens. The two are separated
here, and an attribute that a label has overwritten is omitted unless its true value is known.
"""

from __future__ import annotations

from sematext_agent.docker_collector.message import OWN_ATTRIBUTES, EngineMessage, EngineObject
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import DockerEvent, Event, format_rfc3339


def translate(
    message: EngineMessage, identifier: str, origin: str, engine_object: EngineObject
) -> Event:
    """Return the event of `message`, with the id `identifier`."""
    attributes, labels = _separate(message, engine_object)
    return Event(
        id=identifier,
        time=format_rfc3339(message.time_ns),
        origin=origin,
        agent=AGENT_VERSION,
        body=DockerEvent(
            type=message.type,
            action=message.action,
            actor_id=message.object_id,
            attributes=attributes,
            labels=labels,
            scope=message.scope,
            image_tags=engine_object.image_tags,
        ),
    )


def _separate(
    message: EngineMessage, engine_object: EngineObject
) -> tuple[dict[str, str], dict[str, str]]:
    """Return the engine's own attributes, and the object's labels."""
    mixed = message.attributes
    if message.type not in ("container", "image"):
        return mixed, {}  # The engine copies no labels for other types.
    verb, known_labels = message.verb, engine_object.labels
    own_names = OWN_ATTRIBUTES.get(verb)
    if known_labels is None and own_names is None:
        return mixed, {}  # An action of a newer engine: better a label among the attributes.
    attributes: dict[str, str] = {}
    labels = {} if known_labels is None else known_labels
    for name, value in mixed.items():
        # These two are set after the labels were copied; an image event has no `image`.
        if name == "name" or (name == "image" and message.type == "container"):
            attributes[name] = value
        elif known_labels is not None:
            if name not in labels:
                attributes[name] = value
        elif own_names is not None and name in own_names and _is_plausible(name, value):
            attributes[name] = value
        else:
            labels[name] = value
    if engine_object.exit_code is not None and verb == "die":
        attributes["exitCode"] = str(engine_object.exit_code)
    return attributes, labels


def _is_plausible(name: str, value: str) -> bool:
    """Return whether the engine itself could have set this value."""
    numeric = ("exitCode", "execDuration", "signal", "width", "height")
    return name not in numeric or value.removeprefix("-").isdigit()
