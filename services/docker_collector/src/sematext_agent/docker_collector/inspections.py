"""Inspections: questions to the engine about single objects, asked beside the ordered path.

The inspections that a batch of messages needs run at once. The path waits only for the inspection
of the object it has come to, so that events keep the engine's order.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence

from sematext_agent.docker_collector.connection import EngineConnection
from sematext_agent.docker_collector.containers import ContainerCache
from sematext_agent.docker_collector.engine import EngineContainer, EngineError
from sematext_agent.docker_collector.message import PLAIN_ACTIONS, EngineMessage

log = logging.getLogger(__name__)

PARALLEL_MAX = 4
"""Bound of inspections at a time: fewer than the threads and connections there are for them."""


class Inspections:
    """The inspections under way; their answers feed the cache of containers."""

    def __init__(self, connection: EngineConnection, containers: ContainerCache) -> None:
        self._connection = connection
        self._containers = containers
        self._slots = asyncio.Semaphore(PARALLEL_MAX)
        self._tasks: dict[str, asyncio.Task[EngineContainer | None]] = {}

    def start(
        self, messages: Sequence[EngineMessage], is_new: Callable[[EngineMessage], bool]
    ) -> None:
        """Start the inspections that a batch of messages needs.

        Args:
            messages: the batch; an inspection that is not started here is made at its turn.
            is_new: returns False for a duplicate, which needs no labels.
        """
        for index, message in enumerate(messages):
            # The engine adds nothing to most actions: they describe their container themselves.
            if message.verb in PLAIN_ACTIONS or message.type != "container":
                continue
            container_id = message.object_id
            if container_id in self._tasks or not self._containers.needs_inspection(message):
                continue
            if message.verb == "exec_create" or (
                not _describes(messages[:index], container_id) and is_new(message)
            ):
                self._tasks[container_id] = asyncio.create_task(self._inspect(container_id))

    async def inspect_container(self, container_id: str) -> EngineContainer | None:
        """Return a container from its started or a new inspection; None without an answer."""
        task = self._tasks.pop(container_id, None)
        return await (self._inspect(container_id) if task is None else task)

    async def inspect_image_tags(self, image_id: str) -> tuple[str, ...] | None:
        """Return the tags that an image has now; None without an answer."""
        if (engine := self._connection.engine) is None:
            return None
        try:
            return await asyncio.to_thread(engine.image_tags, image_id)
        except EngineError as error:
            log.debug("image %s not inspected: %s", image_id, error)
            return None

    def cancel(self) -> None:
        """Cancel the inspections that nothing waits for any more."""
        for task in self._tasks.values():
            task.cancel()
        self._tasks.clear()

    async def _inspect(self, container_id: str) -> EngineContainer | None:
        async with self._slots:
            if (engine := self._connection.engine) is None:
                return None
            try:
                container = await asyncio.to_thread(engine.container, container_id)
            except EngineError as error:
                log.debug("container %s not inspected: %s", container_id, error)
                if not error.status:
                    return None
                container = None
        if container is None:
            self._containers.add_absent(container_id)
        else:
            self._containers.add(container, is_inspected=True)
        return container


def _describes(messages: Sequence[EngineMessage], container_id: str) -> bool:
    """Return whether one of `messages` brings the labels of a container."""
    return any(m.object_id == container_id and m.verb in PLAIN_ACTIONS for m in messages)
