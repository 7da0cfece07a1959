"""Look up: the second stage, which adds to a message what is known of its object."""

from __future__ import annotations

from collections.abc import AsyncIterator

from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.containers import KnownContainers
from sematext_agent.docker_collector.engine import Snapshot
from sematext_agent.docker_collector.filters import EventFilter
from sematext_agent.docker_collector.images import KnownImages
from sematext_agent.docker_collector.inspections import Inspections
from sematext_agent.docker_collector.message import (
    PLAIN_ACTIONS,
    EngineMessage,
    EngineObject,
    identify,
)
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.events import Event


class ObjectLookup:
    """The stage that drops duplicates, looks up objects and hands both on to the filter."""

    def __init__(
        self, host: str, state: EngineState, connection: EngineConnection, event_filter: EventFilter
    ) -> None:
        self._host = host
        self._state = state
        self._connection = connection
        self._filter = event_filter
        self.containers = KnownContainers()
        self.images = KnownImages(state.images)
        self.inspections = Inspections(connection, self.containers)

    async def process(self, messages: list[EngineMessage]) -> AsyncIterator[Event | None]:
        """Yield the event of each message, and None for a message that becomes no event."""
        self._start_inspections(messages)
        for message in messages:
            yield await self._process_message(message)
        self.inspections.cancel()

    async def _process_message(self, message: EngineMessage) -> Event | None:
        identifier = identify(message, self._host)
        is_new = self._state.record_message(identifier, message)
        # After a restart a duplicate brings back which execs are health checks.
        if not is_new and (message.type, message.verb) != ("container", "exec_create"):
            return None
        engine_object = await self._look_up(message)
        return self._filter.process(message, identifier, engine_object) if is_new else None

    async def _look_up(self, message: EngineMessage) -> EngineObject:
        object_id = message.object_id
        if message.type == "container" and object_id:
            container = None
            if self.containers.needs_inspection(message):
                container = await self.inspections.inspect_container(object_id)
            return self.containers.look_up(message, container)
        image_tags: tuple[str, ...] = ()
        if message.type == "image":
            if message.verb == "pull":
                # It names no image id, so that only a list shows whose tag it is now.
                self._connection.request_snapshot()
            tags = None
            if self.images.needs_inspection(message):
                tags = await self.inspections.inspect_image_tags(object_id)
            image_tags = self.images.look_up(message, tags)
        container_state = self._state.containers.get(message.attributes.get("container", ""))
        joined = None if container_state is None else (container_state.name, container_state.image)
        return EngineObject(image_tags=image_tags, joined_container=joined)

    def _start_inspections(self, messages: list[EngineMessage]) -> None:
        """Start the inspections that `messages` need, so that they run beside the path."""
        # Containers whose labels an earlier message brings, so that no inspection is needed.
        described: set[str] = set()
        for message in messages:
            if message.type != "container":
                continue
            if message.verb in PLAIN_ACTIONS:
                described.add(message.object_id)
            elif self.containers.needs_inspection(message) and (
                message.verb == "exec_create" or self._needs_labels(message, described)
            ):
                self.inspections.start(message.object_id)

    def _needs_labels(self, message: EngineMessage, described: set[str]) -> bool:
        if message.object_id in described:
            return False
        return not self._state.has_message(identify(message, self._host))

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the containers and images of a snapshot to the known ones."""
        for container in snapshot.containers.values():
            self.containers.add(container, is_inspected=bool(container.started_ns))
        self.images.replace(snapshot.images)
