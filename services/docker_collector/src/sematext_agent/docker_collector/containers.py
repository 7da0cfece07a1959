"""Containers that the collector knows: their labels, health checks and health, by container id.

Labels and the command line of a health check never change. They are learned from messages, lists
and inspections.
"""

from __future__ import annotations

from collections import OrderedDict

from sematext_agent.docker_collector.engine import EngineContainer
from sematext_agent.docker_collector.masking import mask
from sematext_agent.docker_collector.message import PLAIN_ACTIONS, EngineMessage, EngineObject
from sematext_agent.shared.events import NS_PER_SECOND

_RUNNING_CHECKS_MAX = 4096
_ABSENT_MAX = 4096
_END_TOLERANCE_NS = 2 * NS_PER_SECOND
"""Farther than this from the time of a `die`, the end in an inspection is that of another run."""


class ContainerCache:
    """Facts about containers that a single message does not carry."""

    def __init__(self) -> None:
        self.labels: dict[str, dict[str, str]] = {}
        self._health_checks: dict[str, str | None] = {}
        self._health: dict[str, str] = {}
        self._absent: set[str] = set()
        # Execs of health checks that have not ended. One that fails to start never does.
        self._running_checks: OrderedDict[str, None] = OrderedDict()

    def add(self, container: EngineContainer, *, is_inspected: bool) -> None:
        """Add a container of a list, or of an inspection, which has its health check too."""
        self.labels[container.id] = container.labels
        if is_inspected:
            command = container.health_check
            self._health_checks[container.id] = command and mask(command)

    def add_absent(self, container_id: str) -> None:
        """Record that an inspection found no container, so that there is no second one."""
        if len(self._absent) >= _ABSENT_MAX:
            self._absent.clear()
        self._absent.add(container_id)

    def needs_inspection(self, message: EngineMessage) -> bool:
        """Return whether a message cannot be understood without an inspection of its container."""
        container_id, verb = message.object_id, message.verb
        if verb in PLAIN_ACTIONS or container_id in self._absent or not container_id:
            return False
        if verb == "exec_create":
            return container_id not in self._health_checks
        if container_id not in self.labels:
            return True
        return verb == "die" and self._hides_exit_code(container_id)

    def look_up(self, message: EngineMessage, inspected: EngineContainer | None) -> EngineObject:
        """Return the container of `message` after learning from it.

        Args:
            message: a message of a container.
            inspected: the container from an inspection, where `needs_inspection` asked for it.
        """
        self._learn(message)
        container_id = message.object_id
        engine_object = EngineObject(
            labels=self.labels.get(container_id),
            exit_code=None if inspected is None else self._exit_code(message, inspected),
            is_health_check=self._is_health_check(message),
        )
        if message.verb == "destroy":
            self.forget(container_id)
        return engine_object

    def forget(self, container_id: str) -> None:
        """Forget a container that was destroyed."""
        for facts in (self.labels, self._health_checks, self._health):
            facts.pop(container_id, None)
        self._absent.discard(container_id)

    def _learn(self, message: EngineMessage) -> None:
        container_id, verb = message.object_id, message.verb
        if verb in PLAIN_ACTIONS and container_id and container_id not in self.labels:
            self.labels[container_id] = {
                name: value
                for name, value in message.attributes.items()
                if name not in ("name", "image")
            }
        if verb == "exec_create" and self._runs_health_check(message):
            self._running_checks[message.attributes["execID"]] = None
            if len(self._running_checks) > _RUNNING_CHECKS_MAX:
                self._running_checks.popitem(last=False)

    def _exit_code(self, message: EngineMessage, inspected: EngineContainer) -> int | None:
        """Return the exit code of a `die` where a label hides it, and None otherwise."""
        if message.verb != "die" or not self._hides_exit_code(message.object_id):
            return None
        if abs(inspected.finished_ns - message.time_ns) > _END_TOLERANCE_NS:
            return None
        return inspected.exit_code

    def _hides_exit_code(self, container_id: str) -> bool:
        return "exitCode" in self.labels.get(container_id, ())

    def _is_health_check(self, message: EngineMessage) -> bool:
        match message.verb:
            case "exec_create" | "exec_start":
                return self._runs_health_check(message)
            case "exec_die":
                exec_id = message.attributes.get("execID", "")
                return self._running_checks.pop(exec_id, self) is None
            case "health_status":
                health_before = self._health.get(message.object_id)
                self._health[message.object_id] = message.action
                return health_before == message.action
            case "start" | "die":
                self._health.pop(message.object_id, None)
        return False

    def _runs_health_check(self, message: EngineMessage) -> bool:
        command = self._health_checks.get(message.object_id)
        if command is None or message.action.partition(": ")[2] != command:
            return False
        # A label of this name hides the id of every exec of the container, and so which of them
        # ends: then none counts as a health check.
        return "execID" not in self.labels.get(message.object_id, {})
