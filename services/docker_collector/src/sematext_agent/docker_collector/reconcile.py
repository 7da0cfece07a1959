"""What happened to containers while nobody was told: a comparison of two moments.

An engine with live-restore that comes back says nothing of the containers that ended without it,
ever (moby: the exit is only written to the container's state). So after a gap what exists is
compared with what was seen, and the difference is told as events that say they are synthetic.
"""

from __future__ import annotations

from collections.abc import Container as Collection

from sematext_agent.docker_collector.engine import Container, Snapshot
from sematext_agent.docker_collector.state import Seen
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import NS_PER_SECOND, DockerEvent, Event, event_id, format_rfc3339

_TOLERANCE = 2 * NS_PER_SECOND
"""A `start` is told up to this long after the time that an inspection gives for it."""


def missing(
    seen: dict[str, Seen], destroyed: Collection[str], snapshot: Snapshot
) -> list[tuple[str, int, Container]]:
    """The actions that no message told: action, time in nanoseconds, and the container.

    Args:
        seen: the containers as the messages left them, which may be newer than the snapshot.
        destroyed: those of which a `destroy` was read.
        snapshot: what existed, with the times of what runs or ran; see `Engine.snapshot`.
    """
    found = []
    moment = snapshot.moment
    for container_id, container in snapshot.containers.items():
        if container_id in destroyed:
            continue
        if container_id not in seen:
            found.append(("create", container.created, container))
        found += _of_runs(seen.get(container_id, Seen("", "")), container)
    for container_id, before in seen.items():
        if container_id in snapshot.containers or before.since > moment:
            continue
        gone = Container(container_id, before.name, before.image, {}, running=False)
        if before.running:
            found.append(("die", moment, gone))
        found.append(("destroy", moment, gone))
    return found


def _of_runs(before: Seen, now: Container) -> list[tuple[str, int, Container]]:
    """The starts and ends of a container that still exists."""
    start = ("start", now.started, now)
    end = ("die", now.finished, now)
    ended = now.finished > before.since
    if before.running and now.running:
        restarted = before.since and now.started > before.since + _TOLERANCE
        # `finished` is of the run before.
        return [end, start] if restarted and ended else []
    if before.running:
        return [end] if ended else []
    if now.running:
        return [start] if now.started > before.since else []
    if now.started > before.since + _TOLERANCE and ended:
        return [start, end]  # A whole run nobody told of.
    return []


def synthetic(action: str, time: int, container: Container, host: str, origin: str) -> Event:
    """The event for an action that no message told."""
    attributes = {"image": container.image, "name": container.name}
    if action == "die" and container.exit_code is not None:
        attributes["exitCode"] = str(container.exit_code)
    gone = not (container.created or container.started)
    return Event(
        # Of what is gone the engine gives no time, and ours is not part of an id.
        id=event_id("docker", host, "synthetic", action, container.id, "" if gone else time),
        time=format_rfc3339(time),
        origin=origin,
        agent=AGENT_VERSION,
        body=DockerEvent(
            type="container",
            action=action,
            actor_id=container.id,
            attributes=attributes,
            labels=container.labels,
            synthetic=True,
        ),
    )
