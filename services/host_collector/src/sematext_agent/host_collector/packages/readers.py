"""Every kind of root, and the functions that read it."""

from __future__ import annotations

import re
from collections.abc import Callable

import msgspec

from sematext_agent.host_collector.packages import dpkg, node, python, rpm
from sematext_agent.host_collector.packages.inventory import Look, Manager, Package
from sematext_agent.host_collector.packages.tree import Tree


def _one_folder(tree: Tree, path: str) -> list[str]:
    return [path]


def _with_scopes(tree: Tree, path: str) -> list[str]:
    return [path, *node.scopes(tree, path)]


def _never(tree: Tree, path: str) -> bool:
    return False


def _as_it_is(stamp: int) -> int:
    return stamp


class Reader(msgspec.Struct, frozen=True):
    """How one kind of root is read."""

    mark: Callable[[Tree, str], tuple[int, ...]]
    """A cheap figure that changes whenever the root does; empty where there is no such root."""
    read: Callable[[Tree, str, tuple[Package, ...]], Look]
    busy: Callable[[Tree, str], bool] = _never
    """Whether its package manager is at work."""
    busy_seconds_max: float = 60
    """After how long at work it is read all the same."""
    installed_at: Callable[[int], int] = _as_it_is
    """The time that a package's stamp tells."""
    folders: Callable[[Tree, str], list[str]] = _one_folder
    """The directories whose notifications tell of changes."""


READERS = {
    # A reader of dpkg's database understands every state in between, so that a question which
    # waits for its answer on a terminal holds the news of the others up for a minute only.
    "deb": Reader(dpkg.mark, dpkg.read, dpkg.busy),
    "deb-folder": Reader(dpkg.mark_folder, dpkg.read_folder),
    # In the midst of a transaction rpm's database has both versions: it says nothing until then.
    "rpm": Reader(rpm.mark, rpm.read, rpm.busy, float("inf"), rpm.installed_at),
    "python": Reader(python.mark, python.read),
    "node": Reader(node.mark_folder, node.read_folder, folders=_with_scopes),
    "node-project": Reader(node.mark_project, node.read_project),
}


def manager_of(kind: str, path: str) -> Manager:
    """What an event calls the manager of the packages in a root."""
    if kind == "python":
        return "python2" if re.search(r"/(?:python|pypy)2(?:\.\d+)?/", path) else "python3"
    return "rpm" if kind == "rpm" else "node" if kind.startswith("node") else "deb"
