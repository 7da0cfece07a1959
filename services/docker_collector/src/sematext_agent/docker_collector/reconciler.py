"""Reconciler: synthetic events for what happened to containers during a gap.

An engine with live-restore that comes back never reports the containers that ended without it
(moby: the exit is only written to the container's state). So after a gap a snapshot is compared
with the state, and each difference becomes an event that is marked as synthetic.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Container, Iterator

from sematext_agent.docker_collector.engine import EngineContainer, Snapshot
from sematext_agent.docker_collector.filters import EventFilter
from sematext_agent.docker_collector.lookup import ObjectLookup
from sematext_agent.docker_collector.state import ContainerState, EngineState
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import NS_PER_SECOND, DockerEvent, Event, event_id, format_rfc3339

_START_TOLERANCE_NS = 2 * NS_PER_SECOND
"""A `start` is reported up to this long after the time that an inspection gives for it."""
_UNKNOWN_CONTAINER = ContainerState("", "")


class SnapshotReconciler:
    """The stage that takes a snapshot: it adds to what is known, and ends a gap."""

    def __init__(
        self,
        host: str,
        origin: str,
        state: EngineState,
        lookup: ObjectLookup,
        event_filter: EventFilter,
    ) -> None:
        self._host = host
        self._origin = origin
        self._state = state
        self._lookup = lookup
        self._filter = event_filter

    async def process(self, snapshot: Snapshot) -> AsyncIterator[Event | None]:
        """Yield the synthetic events of a gap, if there was one, then None."""
        self._lookup.add_snapshot(snapshot)
        if self._state.unreconciled:
            for event in self._end_gap(snapshot):
                yield event
        yield None

    def _end_gap(self, snapshot: Snapshot) -> Iterator[Event]:
        state, event_filter = self._state, self._filter
        for action, time_ns, container in compare(state.containers, state.destroyed, snapshot):
            state.record_action(action, container.id, time_ns, container.name, container.image)
            if action == "destroy":
                self._lookup.containers.forget(container.id)
            if event_filter.accepts_action("container", action) and event_filter.accepts_container(
                container.name, container.image
            ):
                yield synthetic_event(action, time_ns, container, self._host, self._origin)
        state.unreconciled = False


def compare(
    states: dict[str, ContainerState], destroyed: Container[str], snapshot: Snapshot
) -> list[tuple[str, int, EngineContainer]]:
    """Return the actions that no message reported: action, time in nanoseconds, and container.

    Args:
        states: the containers as the messages left them, which may be newer than the snapshot.
        destroyed: the ids of those whose `destroy` was read.
        snapshot: the containers of one moment, with the times of those that run or ran.
    """
    actions = []
    for container_id, container in snapshot.containers.items():
        if container_id in destroyed:
            continue
        if container_id not in states:
            actions.append(("create", container.created_ns, container))
        actions += _compare_runs(states.get(container_id, _UNKNOWN_CONTAINER), container)
    for container_id, state in states.items():
        if container_id in snapshot.containers or state.changed_ns > snapshot.taken_ns:
            continue
        removed = EngineContainer(container_id, state.name, state.image, {}, running=False)
        if state.running:
            actions.append(("die", snapshot.taken_ns, removed))
        actions.append(("destroy", snapshot.taken_ns, removed))
    return actions


def _compare_runs(
    before: ContainerState, now: EngineContainer
) -> list[tuple[str, int, EngineContainer]]:
    """Return the starts and ends of a container that still exists."""
    start = ("start", now.started_ns, now)
    end = ("die", now.finished_ns, now)
    has_ended = now.finished_ns > before.changed_ns
    has_started = now.started_ns > before.changed_ns + _START_TOLERANCE_NS
    if before.running and now.running:
        # The end is of the run before.
        return [end, start] if before.changed_ns and has_started and has_ended else []
    if before.running:
        return [end] if has_ended else []
    if now.running:
        return [start] if now.started_ns > before.changed_ns else []
    # A whole run between the two.
    return [start, end] if has_started and has_ended else []


def synthetic_event(
    action: str, time_ns: int, container: EngineContainer, host: str, origin: str
) -> Event:
    """Return the event of an action that no message reported."""
    attributes = {"image": container.image, "name": container.name}
    if action == "die" and container.exit_code is not None:
        attributes["exitCode"] = str(container.exit_code)
    is_removed = not (container.created_ns or container.started_ns)
    # The engine gives no time for a removed container, and the time of a snapshot is no identity.
    identity_time = "" if is_removed else time_ns
    return Event(
        id=event_id("docker", host, "synthetic", action, container.id, identity_time),
        time=format_rfc3339(time_ns),
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
