"""Says at once when something in a watched directory changes: inotify, one instance for everything.

It is a hint and no more. What it does not see (some overlay and network file systems) and what it
forgets (a full queue) is found by the next look at the marks of the roots.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Hashable

from inotify_simple import INotify, flags  # type: ignore[import-untyped]

from sematext_agent.host_collector.packages.resolving import open_below
from sematext_agent.host_collector.packages.tree import Tree

log = logging.getLogger(__name__)

_MASK = (
    flags.CREATE
    | flags.MOVED_FROM
    | flags.MOVED_TO
    | flags.DELETE
    | flags.CLOSE_WRITE
    | flags.DELETE_SELF
    | flags.MOVE_SELF
    | flags.ONLYDIR
)


class Notifier:
    """Watches directories, each for the sake of some key."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._keys: defaultdict[int, set[Hashable]] = defaultdict(set)
        self._told = False

    def fileno(self) -> int:
        """The descriptor that is readable when there is something to `read`."""
        return int(self._inotify.fileno())

    def close(self) -> None:
        """Ends all watching."""
        self._inotify.close()

    def watch(self, tree: Tree, path: str, key: Hashable) -> bool:
        """Watches the directory `path` for `key`; returns whether that could be done.

        To watch one again costs little, and is right after it was removed and made again.
        """
        try:
            fd = open_below(tree.root, path, os.O_PATH | os.O_DIRECTORY)
        except OSError:
            return False
        try:
            # A path of /proc to the open directory, so that no link is followed a second time.
            watch = self._inotify.add_watch(f"/proc/self/fd/{fd}", _MASK)
        except OSError as error:
            if error.errno == errno.ENOSPC and not self._told:
                self._told = True
                log.warning(
                    "no more directories can be watched: raise fs.inotify.max_user_watches; "
                    "until then changes in the others are found a little later"
                )
            return False
        finally:
            os.close(fd)
        self._keys[watch].add(key)
        return True

    def read(self) -> tuple[set[Hashable], bool]:
        """The keys in whose directories something changed, and whether notes were lost."""
        changed: set[Hashable] = set()
        lost = False
        for note in self._inotify.read(timeout=0):
            changed |= self._keys.get(note.wd, set())
            if note.mask & flags.IGNORED:
                self._keys.pop(note.wd, None)
            lost |= bool(note.mask & flags.Q_OVERFLOW)
        return changed, lost
