"""The scan roots that exist in a file system."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import msgspec

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.host_collector.packages.inventory import manager_of
from sematext_agent.host_collector.packages.readers.reader import PackageReader
from sematext_agent.host_collector.packages.scan_patterns import HOMES, PATTERNS, ScanPattern


class RootMatch(msgspec.Struct, frozen=True):
    """A scan root that exists."""

    kind: str
    path: str
    began_empty: bool
    """True where its first packages emit events; see `ScanPattern.system`."""
    inode: tuple[int, int]
    """Device and inode of the directory: the same whatever path leads to it."""


def find_scan_roots(
    tree: FileTree,
    patterns: Iterable[ScanPattern],
    managers: Collection[str],
    readers: Mapping[str, PackageReader],
) -> list[RootMatch]:
    """Return the scan roots in `tree` that match `patterns`, each once, by its first path.

    Args:
        tree: the file system to search.
        patterns: where to search, in this order.
        managers: the package managers whose roots are wanted.
        readers: the readers by the kind of root.
    """
    matches: dict[tuple[int, int], RootMatch] = {}
    for pattern in patterns:
        for path in tree.glob(pattern.pattern):
            match = _match(tree, pattern, path, readers)
            if match is not None and manager_of(match.kind, match.path) in managers:
                matches.setdefault(match.inode, match)
    return list(matches.values())


def _match(
    tree: FileTree, pattern: ScanPattern, path: str, readers: Mapping[str, PackageReader]
) -> RootMatch | None:
    try:
        kind = pattern.kind
        if kind == "node" and readers["node-project"].fingerprint(tree, path):
            kind = "node-project"
        folder = tree.stat(path)
        parent = tree.stat(path.rpartition("/")[0] or ".")
        if folder is None or parent is None or not readers[kind].fingerprint(tree, path):
            return None
    except (OSError, UnreadableError):
        return None
    # A file system that was mounted here brings its packages with it.
    began_empty = pattern.system and folder.st_dev == parent.st_dev
    return RootMatch(kind, path, began_empty, (folder.st_dev, folder.st_ino))


def find_parents(tree: FileTree) -> list[str]:
    """Return the directories in which a root of the system may appear."""
    parents: dict[str, None] = {}
    for pattern in PATTERNS:
        if pattern.system and not pattern.pattern.startswith(HOMES):
            parts = pattern.pattern.split("/")
            parents |= dict.fromkeys("/".join(parts[:count]) for count in range(1, len(parts)))
    return [path for parent in parents for path in tree.glob(parent)]
