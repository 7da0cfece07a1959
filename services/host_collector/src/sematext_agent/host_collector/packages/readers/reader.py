"""The interface of the readers: how one kind of scan root is read."""

from __future__ import annotations

from collections.abc import Callable

import msgspec

from sematext_agent.host_collector.file_tree import FileTree
from sematext_agent.host_collector.packages.inventory import Package, RootScan


def _root_folder(tree: FileTree, path: str) -> list[str]:
    return [path]


def _stamp_itself(stamp: int) -> int:
    return stamp


class PackageReader(msgspec.Struct, frozen=True):
    """The functions and the bounds of one kind of scan root."""

    fingerprint: Callable[[FileTree, str], tuple[int, ...]]
    """Returns cheap numbers that change whenever the root does; empty where no such root exists."""
    scan: Callable[[FileTree, str, tuple[Package, ...], int], RootScan]
    """Reads the root: tree, path, the stored inventory, the time in nanoseconds since the epoch."""
    lock_files: tuple[str, ...] = ()
    """Files in the root on which its package manager holds a lock while it is at work."""
    lock_seconds_max: float = 60
    """Seconds after which the root is read although its package manager is at work."""
    installed_at: Callable[[int], int] = _stamp_itself
    """Returns the time in a package's stamp, in nanoseconds since the epoch."""
    folders: Callable[[FileTree, str], list[str]] = _root_folder
    """Returns the directories whose notifications show changes."""
