"""The state of the collector, stored as its cursor: messages read, containers as they left them.

The cursor holds the digests of the last messages, because their times are not in order and one
`since` could skip some. It holds the containers, because after a restart of the engine only a
comparison shows which of them ended meanwhile.
"""

from __future__ import annotations

import itertools
import logging
from collections import OrderedDict
from collections.abc import Mapping

import msgspec

from sematext_agent.docker_collector.engine import HISTORY_EVENTS, Snapshot
from sematext_agent.docker_collector.message import EngineMessage
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import Nanoseconds

log = logging.getLogger(__name__)

DIGESTS_STORED = 2 * HISTORY_EVENTS
_DIGESTS_MAX = 8 * HISTORY_EVENTS
_DIGEST_BYTES = 8
CURSOR_BYTES_MAX = 900_000
"""Bound of an encoded cursor: the broker takes messages of 1 MiB."""
_CONTAINERS_MAX = 4000
_IMAGES_MAX = 1000
_DESTROYED_MAX = 1024
_STATE_ACTIONS = frozenset({"create", "start", "die", "rename", "destroy"})
"""The actions that change the list of containers, or which of them run."""


class ContainerState(msgspec.Struct, array_like=True):
    """A container as the messages left it."""

    name: str
    image: str
    running: bool = False
    changed_ns: Nanoseconds = msgspec.field(default=0, name="since")
    """The last creation, start or end, in nanoseconds since the epoch; 0 where it is unknown."""


class EngineCursor(msgspec.Struct, omit_defaults=True):
    """The stored form of an EngineState."""

    address: str
    latest_ns: Nanoseconds = msgspec.field(default=0, name="latest")
    """The time of the newest message, in nanoseconds since the epoch."""
    digests: bytes = msgspec.field(default=b"", name="recent")
    """The digests of the last messages, oldest first, each of 8 bytes."""
    containers: dict[str, ContainerState] = {}
    images: dict[str, tuple[str, ...]] = {}
    unreconciled: bool = False
    """True from a gap on until its synthetic events were published."""


class EngineState:
    """The messages read from one engine and the containers they left, in memory."""

    def __init__(self, address: str, stored: bytes | None) -> None:
        cursor = _decode_cursor(address, stored)
        self.is_new = cursor is None
        """True on a first run, until the baseline is recorded."""
        cursor = cursor or EngineCursor(address)
        self.address = address
        self.latest_ns = cursor.latest_ns
        self.containers = cursor.containers
        self.images = cursor.images
        self.unreconciled = cursor.unreconciled
        self.destroyed: OrderedDict[str, None] = OrderedDict()
        """The containers destroyed last: a list taken before may still hold them."""
        starts = range(0, len(cursor.digests), _DIGEST_BYTES)
        self._digests = dict.fromkeys(cursor.digests[at : at + _DIGEST_BYTES] for at in starts)

    @property
    def has_read(self) -> bool:
        """True where a message was read that the engine may still remember."""
        return bool(self._digests)

    def has_message(self, event_id: str) -> bool:
        """Return whether the message with this event id was read before."""
        return _digest(event_id) in self._digests

    def record_message(self, event_id: str, message: EngineMessage) -> bool:
        """Record a message and its effect on a container; return False for a duplicate."""
        digest = _digest(event_id)
        if digest in self._digests:
            return False
        self._digests[digest] = None
        if len(self._digests) > _DIGESTS_MAX:
            for digest in list(itertools.islice(self._digests, HISTORY_EVENTS)):
                del self._digests[digest]
        if message.time_ns > self.latest_ns:
            self.latest_ns = message.time_ns
        if message.verb in _STATE_ACTIONS and message.type == "container" and message.object_id:
            attributes = message.attributes
            name, image = attributes.get("name", ""), attributes.get("image", "")
            self.record_action(message.verb, message.object_id, message.time_ns, name, image)
        return True

    def forget_messages(self) -> None:
        """Forget every message, after an engine that remembers none of them."""
        self._digests.clear()

    def record_action(
        self, action: str, container_id: str, time_ns: int, name: str, image: str
    ) -> None:
        """Record an action of a container, at `time_ns` in nanoseconds since the epoch."""
        if action == "destroy":
            self.containers.pop(container_id, None)
            self.destroyed[container_id] = None
            if len(self.destroyed) > _DESTROYED_MAX:
                self.destroyed.popitem(last=False)
        else:
            container = self.containers.setdefault(
                container_id, ContainerState(name, image, False, time_ns)
            )
            container.name = name
            if action in ("start", "die"):
                container.running, container.changed_ns = action == "start", time_ns

    def replace_containers(self, snapshot: Snapshot) -> None:
        """Replace the containers by those of a snapshot."""
        self.containers = {
            container.id: ContainerState(
                container.name,
                container.image,
                container.running,
                max(container.started_ns, container.created_ns),
            )
            for container in snapshot.containers.values()
        }

    def cursor(self, images: Mapping[str, tuple[str, ...]]) -> bytes:
        """Return the state encoded, in at most CURSOR_BYTES_MAX bytes."""
        containers_max, images_max = _CONTAINERS_MAX, _IMAGES_MAX
        while len(encoded := self._encode(images, containers_max, images_max)) > CURSOR_BYTES_MAX:
            containers_max, images_max = containers_max // 2, images_max // 2
        return encoded

    def _encode(
        self, images: Mapping[str, tuple[str, ...]], containers_max: int, images_max: int
    ) -> bytes:
        digests = list(itertools.islice(reversed(self._digests), DIGESTS_STORED))
        containers = self.containers
        if len(containers) > containers_max:
            # Running containers come first: an end that nobody saw is found by their record.
            ordered = sorted(containers.items(), key=lambda item: not item[1].running)
            containers = dict(ordered[:containers_max])
        return msgspec.json.encode(
            EngineCursor(
                address=self.address,
                latest_ns=self.latest_ns,
                digests=b"".join(reversed(digests)),
                containers=containers,
                images=dict(itertools.islice(images.items(), images_max)),
                unreconciled=self.unreconciled,
            )
        )


def _digest(event_id: str) -> bytes:
    return bytes.fromhex(event_id[: 2 * _DIGEST_BYTES])


def _decode_cursor(address: str, stored: bytes | None) -> EngineCursor | None:
    if stored is None:
        return None
    try:
        cursor = msgspec.json.decode(stored, type=EngineCursor)
    except DECODE_ERRORS as error:
        log.warning("starting from now: the stored cursor cannot be decoded (%s)", error)
        return None
    if cursor.address != address:
        log.info("starting from now: the stored cursor is of another engine, %s", cursor.address)
        return None
    return cursor
