"""A watcher of directories that shows changes at once: inotify, one instance for all of them.

It is a hint and no more. What it does not see (some overlay and network file systems) and what it
loses (a full queue) is found by the next comparison of the roots' fingerprints.
"""

from __future__ import annotations

import errno
import logging
import os
from collections import defaultdict
from collections.abc import Hashable

from inotify_simple import INotify, flags  # type: ignore[import-untyped]

from sematext_agent.host_collector.file_tree import FileTree

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


class DirectoryWatcher:
    """The directories that are watched, each on behalf of one or more keys."""

    def __init__(self) -> None:
        self._inotify = INotify(nonblocking=True)
        self._keys: defaultdict[int, set[Hashable]] = defaultdict(set)
        self._is_limit_logged = False

    def fileno(self) -> int:
        """Return the descriptor that is readable when `read` returns something."""
        return int(self._inotify.fileno())

    def close(self) -> None:
        """Stop watching."""
        self._inotify.close()

    def watch(self, tree: FileTree, path: str, key: Hashable) -> bool:
        """Watch the directory `path` for `key`; return whether that is possible.

        Watching a directory again costs little, and is needed after it was removed and recreated.
        """
        try:
            fd = tree.open_folder(path)
        except OSError:
            return False
        try:
            # A path of /proc to the open directory, so that no link is followed a second time.
            watch = self._inotify.add_watch(f"/proc/self/fd/{fd}", _MASK)
        except OSError as error:
            if error.errno == errno.ENOSPC and not self._is_limit_logged:
                self._is_limit_logged = True
                log.warning(
                    "changes of packages are found later: no more directories can be watched "
                    "(raise fs.inotify.max_user_watches)"
                )
            return False
        finally:
            os.close(fd)
        self._keys[watch].add(key)
        return True

    def read(self) -> tuple[set[Hashable], bool]:
        """Return the keys whose directories changed, and whether notifications were lost."""
        changed: set[Hashable] = set()
        is_lossy = False
        for notification in self._inotify.read(timeout=0):
            changed |= self._keys.get(notification.wd, set())
            if notification.mask & flags.IGNORED:
                self._keys.pop(notification.wd, None)
            is_lossy |= bool(notification.mask & flags.Q_OVERFLOW)
        return changed, is_lossy
