"""What is known of containers and images beyond a single message, learned from the messages.

Of containers: their labels, which do not change, and the command line of their health check. Of
images: their tags, because the message of an `untag` or `delete` no longer names them.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping

from sematext_agent.docker_collector.engine import Container
from sematext_agent.docker_collector.masking import mask
from sematext_agent.docker_collector.translate import PLAIN, Message

_PROBES_MAX = 4096
_GONE_MAX = 4096


class Containers:
    """The labels, health checks and health of containers, by container id."""

    def __init__(self) -> None:
        self.labels: dict[str, dict[str, str]] = {}
        self._probes: dict[str, str | None] = {}
        self._health: dict[str, str] = {}
        self._gone: set[str] = set()
        # Execs of health checks that have not ended. One that fails to start never does.
        self._running_probes: OrderedDict[str, None] = OrderedDict()

    def know(self, container: Container, *, closely: bool) -> None:
        """Takes over what the engine says of a container, `closely` after an inspection."""
        self.labels[container.id] = container.labels
        if closely:
            self._probes[container.id] = container.probe and mask(container.probe)

    def does_not_exist(self, container_id: str) -> None:
        """Keeps that an inspection found nothing, so that there is no second one."""
        if len(self._gone) >= _GONE_MAX:
            self._gone.clear()
        self._gone.add(container_id)

    def hides_exit_code(self, container_id: str) -> bool:
        """Whether a label takes the place of the exit code."""
        return "exitCode" in self.labels.get(container_id, ())

    def needs_inspection(self, message: Message) -> bool:
        """Whether only a closer look at its container can tell what this message means."""
        container_id, verb = message.id, message.verb
        if verb in PLAIN or container_id in self._gone or not container_id:
            return False
        if verb == "exec_create":
            return container_id not in self._probes
        if container_id not in self.labels:
            return True
        return verb == "die" and self.hides_exit_code(container_id)

    def learn(self, message: Message) -> None:
        """Takes over what a message says of its container."""
        container_id, verb = message.id, message.verb
        if verb in PLAIN and container_id and container_id not in self.labels:
            # The engine adds nothing to this action: all but these two are labels.
            self.labels[container_id] = {
                name: value
                for name, value in message.attributes.items()
                if name not in ("name", "image")
            }
        if verb == "exec_create" and self._is_probe(message):
            self._running_probes[message.attributes["execID"]] = None
            if len(self._running_probes) > _PROBES_MAX:
                self._running_probes.popitem(last=False)

    def is_noise(self, message: Message) -> bool:
        """Whether it is an exec of a health check, or says again a health that was said."""
        match message.verb:
            case "exec_create" | "exec_start":
                return self._is_probe(message)
            case "exec_die":
                exec_id = message.attributes.get("execID", "")
                return self._running_probes.pop(exec_id, self) is None
            case "health_status":
                before = self._health.get(message.id)
                self._health[message.id] = message.action
                return before == message.action
            case "start" | "die":
                self._health.pop(message.id, None)
        return False

    def forget(self, container_id: str) -> None:
        """The container is gone."""
        for known in (self.labels, self._probes, self._health):
            known.pop(container_id, None)
        self._gone.discard(container_id)

    def _is_probe(self, message: Message) -> bool:
        probe = self._probes.get(message.id)
        if probe is None or message.action.partition(": ")[2] != probe:
            return False
        # A label of this name hides the id of every exec of the container, and with it which of
        # them end: then all are told.
        return "execID" not in self.labels.get(message.id, {})


class Images:
    """The tags of images, by image id."""

    def __init__(self, tags: Mapping[str, tuple[str, ...]] | None = None) -> None:
        self.tags: dict[str, tuple[str, ...]] = dict(tags or {})
        # Tags that a list no longer holds, though their `untag` has not been read yet.
        self._vanished: dict[str, tuple[str, ...]] = {}
        # What the last `untag` of an image took, for the `delete` that follows it.
        self._untagged: dict[str, tuple[str, ...]] = {}

    def know(self, images: Mapping[str, tuple[str, ...]]) -> None:
        """Takes over a list of all images."""
        held = {tag for tags in images.values() for tag in tags}
        for image_id, before in self.tags.items():
            # A tag that another image holds now was moved, which is no `untag`.
            vanished = tuple(tag for tag in before if tag not in held)
            if vanished:
                self._vanished[image_id] = (*self._vanished.get(image_id, ()), *vanished)
        self.tags = dict(images)

    def learn(self, message: Message) -> None:
        """Takes over what a message says of an image's tags."""
        name = message.attributes.get("name", "")
        if message.verb == "tag" and name:
            # A tag belongs to one image at a time.
            for image_id, tags in self.tags.items():
                if name in tags and image_id != message.id:
                    self.tags[image_id] = tuple(tag for tag in tags if tag != name)
            if name not in (tags := self.tags.get(message.id, ())):
                self.tags[message.id] = (*tags, name)

    def untagged(self, message: Message, now: tuple[str, ...] | None) -> tuple[str, ...]:
        """The tags that an `untag` took.

        Args:
            message: the `untag`.
            now: the tags the image has now, where that was asked for: see `is_ambiguous`.
        """
        image_id, name = message.id, message.attributes.get("name", "")
        before = self.tags.get(image_id, ())
        if not _is_digest(name):
            taken: tuple[str, ...] = (name,)
        elif not (taken := self._vanished.pop(image_id, ())):
            taken = tuple(tag for tag in before if tag not in (now or ()))
        taken = taken or self._untagged.get(image_id, ())
        # Where several are possible and nobody could say which, all are named and none forgotten.
        if now is not None or len(taken) < 2:
            self.tags[image_id] = tuple(tag for tag in before if tag not in taken)
        self._untagged[image_id] = taken
        return taken

    def is_ambiguous(self, message: Message) -> bool:
        """Whether only the engine can say which of the image's tags an `untag` took."""
        image_id, name = message.id, message.attributes.get("name", "")
        return (
            _is_digest(name)
            and image_id not in self._vanished
            and len(self.tags.get(image_id, ())) > 1
        )

    def deleted(self, message: Message) -> tuple[str, ...]:
        """The tags that an image had before its `delete`, or before the `untag`s that led to it."""
        image_id, name = message.id, message.attributes.get("name", "")
        untagged = self._untagged.pop(image_id, ())
        tags = self.tags.pop(image_id, ()) or self._vanished.pop(image_id, ()) or untagged
        return tags or (() if _is_digest(name) else (name,))


def _is_digest(name: str) -> bool:
    return name.startswith("sha256:") or not name
