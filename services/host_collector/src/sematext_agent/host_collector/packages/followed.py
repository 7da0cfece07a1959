"""One root that is followed: when to look at it, and what a look tells.

A root is read once it has changed and then been quiet for a moment, its package manager is not at
work, and it did not change again while it was read. Whatever cannot be read keeps its inventory and
is tried again: it never means that everything was removed.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator

import msgspec

from sematext_agent.host_collector.packages import inventory
from sematext_agent.host_collector.packages.inventory import Change, Origin, Root
from sematext_agent.host_collector.packages.notify import Notifier
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.slots import Cursor, Slots
from sematext_agent.host_collector.packages.tree import Forbidden, Tree, Unreadable
from sematext_agent.shared.collector import Observation

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.4
"""How long a root must have stayed as it is before it is read."""
_UNFINISHED_SECONDS = 0.3
_RETRY_SECONDS = 10


class Told(msgspec.Struct, frozen=True):
    """What one look at a root tells, and the cursors that keep it."""

    root: Root
    origin: Origin
    changes: list[Change]
    cursors: list[Cursor]

    def observations(self) -> Iterator[Observation]:
        """The same for the bus: no cursor before the last event."""
        cursors = iter(self.cursors)
        left = len(self.changes)
        for event in inventory.events(self.root, self.origin, self.changes):
            left -= 1
            part, cursor = next(cursors) if not left else ("", None)
            yield Observation(event, cursor, part)
        for part, cursor in cursors:
            yield Observation(None, cursor, part)


class Followed:
    """A root, and how far we are with it. Times are seconds of the monotonic clock."""

    def __init__(self, root: Root, origin: Origin, began_empty: bool = False) -> None:
        self.root = root
        self.origin = origin
        self.inode: tuple[int, int] | None = None
        self.is_watched = False
        self.failure = ""
        """Why it could not be read the last time."""
        self.gone_since: float | None = None
        self.look_at = 0.0
        """When it has to be looked at next."""
        self.changed_since: float | None = None
        """Since when it is not as it was read; None while it is."""
        self.count = 0
        """How many packages it holds."""
        self._began_empty = began_empty
        self._reader = READERS[root.kind]
        self._mark: tuple[int, ...] = ()
        self._changed = 0.0

    def read_again(self) -> None:
        """Makes the next look read it, changed or not."""
        self._mark = ()
        self.look_at = 0.0

    def leave(self, now: float) -> None:
        """Notes that it is gone: unmounted, deleted, or its container has ended."""
        if self.gone_since is None:
            self.gone_since = now
            self.inode = None
            self.changed_since = None
            self.count = 0
            self.is_watched = False
            self._mark = ()

    def look(self, tree: Tree, slots: Slots, now: float) -> Told | None:
        """Looks whether it changed, and if so, and it is ready, reads it."""
        path = self.root.path
        try:
            mark = self._mark_or_none(tree)
            if not mark:
                self.leave(now)
                return None
            if mark != self._mark:
                self._mark = mark
                self._changed = now
                self.gone_since = None
                self.changed_since = self.changed_since or now
            if self.changed_since is None or now - self._changed < QUIET_SECONDS:
                return None
            if self._reader.busy(tree, path) and (
                now - self.changed_since < self._reader.busy_seconds_max
            ):
                return None
            return self._read(tree, slots, now)
        except (OSError, Unreadable) as error:
            if str(error) != self.failure:
                self.failure = str(error)
                log.warning("packages of %s stay as they were known: %s", self.where, error)
            self.look_at = now + _RETRY_SECONDS
            return None

    def _mark_or_none(self, tree: Tree) -> tuple[int, ...]:
        """Empty also where the root may not be looked at any more, as after a change of user."""
        try:
            return self._reader.mark(tree, self.root.path)
        except Forbidden as error:
            if self.gone_since is None:
                log.warning("packages of %s are not told: %s", self.where, error)
            return ()

    def watch(self, tree: Tree, notifier: Notifier) -> None:
        """Has the kernel tell of changes in it."""
        try:
            folders = self._reader.folders(tree, self.root.path)
        except (OSError, Unreadable):
            folders = []
        watched = [notifier.watch(tree, path, self.root) for path in folders]
        self.is_watched = bool(watched) and all(watched)

    @property
    def where(self) -> str:
        """The root, for a person."""
        container = self.origin.container_name or self.root.container_id[:12]
        return f"/{self.root.path}" + (f" in container {container}" if container else "")

    def _read(self, tree: Tree, slots: Slots, now: float) -> Told | None:
        before = slots.packages(self.root)
        look = self._reader.read(tree, self.root.path, before)
        if look.unfinished:
            self.look_at = now + _UNFINISHED_SECONDS
            return None
        if self._reader.mark(tree, self.root.path) != self._mark:
            return None
        self.failure = ""
        self.changed_since = None
        self.count = len(look.packages)
        is_news = self.root in slots or self._began_empty
        found = inventory.changes(before, look, self._reader.installed_at) if is_news else []
        packages = inventory.settled(before, look.packages)
        if self.root in slots and not found and packages == before:
            return None
        return Told(self.root, self.origin, found, slots.keep(self.root, packages))
