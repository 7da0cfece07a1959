"""How far the collector is: what was read, and what exists as far as the messages tell.

This is the cursor. It holds the last messages' digests, because their times are not in order and
one `since` could skip some; and the containers, because after a restart of the engine only a
comparison shows which of them ended meanwhile.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict

import msgspec

from sematext_agent.docker_collector.engine import RING_EVENTS, Snapshot
from sematext_agent.docker_collector.translate import Message
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import Nanoseconds

log = logging.getLogger(__name__)

RECENT_STORED = 2 * RING_EVENTS
_RECENT_MAX = 8 * RING_EVENTS
_DIGEST_BYTES = 8
CURSOR_BYTES_MAX = 900_000
"""The broker takes messages of 1 MiB."""
_CONTAINERS_MAX = 4000
_IMAGES_MAX = 1000
_DESTROYED_MAX = 1024
_MOVES = frozenset({"create", "start", "die", "rename", "destroy"})
"""The actions after which another list of containers, or of running ones, is right."""


class Seen(msgspec.Struct, array_like=True):
    """A container as the messages left it."""

    name: str
    image: str
    running: bool = False
    since: Nanoseconds = 0
    """When it was last created, started or ended, in nanoseconds since the epoch; 0: unknown."""


class Cursor(msgspec.Struct, omit_defaults=True):
    """What is stored."""

    address: str
    latest: Nanoseconds = 0
    """The time of the newest message, in nanoseconds since the epoch."""
    recent: bytes = b""
    """The digests of the last messages, oldest first, each of 8 bytes."""
    containers: dict[str, Seen] = {}
    images: dict[str, tuple[str, ...]] = {}
    unreconciled: bool = False
    """A gap was told, and what changed in it was not."""


class State:
    """The cursor in memory."""

    def __init__(self, address: str, stored: bytes | None) -> None:
        cursor = _read(address, stored)
        self.is_new = cursor is None
        """Nothing is known: what the engine remembers from before is not told."""
        cursor = cursor or Cursor(address)
        self.address = address
        self.latest = cursor.latest
        self.containers = cursor.containers
        self.images = cursor.images
        self.unreconciled = cursor.unreconciled
        self.destroyed: OrderedDict[str, None] = OrderedDict()
        """The containers that were destroyed last: a list taken before may still hold them."""
        digests = range(0, len(cursor.recent), _DIGEST_BYTES)
        self._recent = dict.fromkeys(cursor.recent[at : at + _DIGEST_BYTES] for at in digests)

    @property
    def has_read(self) -> bool:
        """Whether any message of the engine's memory is known."""
        return bool(self._recent)

    def knows(self, event_id: str) -> bool:
        """Whether the message with this event id was read already."""
        return _digest(event_id) in self._recent

    def note(self, event_id: str, message: Message) -> bool:
        """Keeps that a message was read, and what it says of a container.

        Returns False, and keeps nothing, where it was read before.
        """
        digest = _digest(event_id)
        if digest in self._recent:
            return False
        self._recent[digest] = None
        if len(self._recent) > _RECENT_MAX:
            for digest in list(itertools.islice(self._recent, RING_EVENTS)):
                del self._recent[digest]
        if message.nanoseconds > self.latest:
            self.latest = message.nanoseconds
        if message.verb in _MOVES and message.type == "container" and message.id:
            given = message.attributes
            name, image = given.get("name", ""), given.get("image", "")
            self.follow(message.verb, message.id, message.nanoseconds, name, image)
        return True

    def forget_recent(self) -> None:
        """The engine remembers none of what was read."""
        self._recent.clear()

    def follow(self, action: str, container_id: str, moment: int, name: str, image: str) -> None:
        """Keeps what happened to a container, at `moment` in nanoseconds since the epoch."""
        if action == "destroy":
            self.containers.pop(container_id, None)
            self.destroyed[container_id] = None
            if len(self.destroyed) > _DESTROYED_MAX:
                self.destroyed.popitem(last=False)
        else:
            seen = self.containers.setdefault(container_id, Seen(name, image, False, moment))
            seen.name = name
            if action in ("start", "die"):
                seen.running, seen.since = action == "start", moment

    def take_over(self, snapshot: Snapshot) -> None:
        """Takes what exists for what was seen."""
        self.containers = {
            container_id: Seen(
                found.name, found.image, found.running, max(found.started, found.created)
            )
            for container_id, found in snapshot.containers.items()
        }

    def cursor(self, images: dict[str, tuple[str, ...]]) -> bytes:
        """The cursor that holds now, encoded: at most CURSOR_BYTES_MAX."""
        containers_max, images_max = _CONTAINERS_MAX, _IMAGES_MAX
        while len(encoded := self._encode(images, containers_max, images_max)) > CURSOR_BYTES_MAX:
            containers_max, images_max = containers_max // 2, images_max // 2
        return encoded

    def _encode(
        self, images: dict[str, tuple[str, ...]], containers_max: int, images_max: int
    ) -> bytes:
        recent = list(itertools.islice(reversed(self._recent), RECENT_STORED))
        containers = self.containers
        if len(containers) > containers_max:
            # What must not be forgotten is who was running.
            ordered = sorted(containers.items(), key=lambda item: not item[1].running)
            containers = dict(ordered[:containers_max])
        return msgspec.json.encode(
            Cursor(
                address=self.address,
                latest=self.latest,
                recent=b"".join(reversed(recent)),
                containers=containers,
                images=dict(itertools.islice(images.items(), images_max)),
                unreconciled=self.unreconciled,
            )
        )


def _digest(event_id: str) -> bytes:
    return bytes.fromhex(event_id[: 2 * _DIGEST_BYTES])


def _read(address: str, stored: bytes | None) -> Cursor | None:
    if stored is None:
        return None
    try:
        cursor = msgspec.json.decode(stored, type=Cursor)
    except DECODE_ERRORS as error:
        log.warning("the stored cursor cannot be read (%s): starting from now", error)
        return None
    if cursor.address != address:
        log.info("another engine than before (%s): starting from now", cursor.address)
        return None
    return cursor
