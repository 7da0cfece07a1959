"""Look up: the third stage, which adds to a message what is known of its object."""

from __future__ import annotations

from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.containers import ContainerCache
from sematext_agent.docker_collector.engine import Snapshot
from sematext_agent.docker_collector.filters import EventFilter
from sematext_agent.docker_collector.images import ImageTagCache
from sematext_agent.docker_collector.inspections import Inspections
from sematext_agent.docker_collector.message import EngineMessage, EngineObject
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.events import Event


class ObjectLookup:
    """The stage that hands a message and its object on to the filter."""

    def __init__(
        self, state: EngineState, connection: EngineConnection, event_filter: EventFilter
    ) -> None:
        self._state = state
        self._connection = connection
        self._filter = event_filter
        self.containers = ContainerCache()
        self.images = ImageTagCache(state.images)
        self.inspections = Inspections(connection, self.containers)

    async def process(self, message: EngineMessage, identifier: str, is_new: bool) -> Event | None:
        """Return the event of `message`; None for a duplicate, from which is only learned."""
        if message.type == "container" and message.object_id:
            container = None
            if self.containers.needs_inspection(message):
                container = await self.inspections.inspect_container(message.object_id)
            engine_object = self.containers.look_up(message, container)
        else:
            image_tags: tuple[str, ...] = ()
            if message.type == "image":
                image_tags = await self._look_up_tags(message)
            joined = self._state.containers.get(message.attributes.get("container", ""))
            engine_object = EngineObject(
                image_tags=image_tags,
                joined_container=None if joined is None else (joined.name, joined.image),
            )
        return self._filter.process(message, identifier, engine_object) if is_new else None

    def add_snapshot(self, snapshot: Snapshot) -> None:
        """Add the containers and images of a snapshot to the caches."""
        for container in snapshot.containers.values():
            self.containers.add(container, is_inspected=bool(container.started_ns))
        self.images.replace(snapshot.images)

    async def _look_up_tags(self, message: EngineMessage) -> tuple[str, ...]:
        if message.verb == "pull":
            # It names no image id, so that only a list shows whose tag it is now.
            self._connection.request_snapshot()
        inspected_tags = None
        if self.images.needs_inspection(message):
            inspected_tags = await self.inspections.inspect_image_tags(message.object_id)
        return self.images.look_up(message, inspected_tags)
