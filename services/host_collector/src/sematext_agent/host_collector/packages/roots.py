"""Where packages are: the usual places of a file system, and what its running processes use.

The disk is never searched. A project or an environment in an unusual place is found by a process
that runs from it (see `processes`), or named in `PKG_PATHS`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from sematext_agent.host_collector.packages.node import LOCK
from sematext_agent.host_collector.packages.readers import READERS, manager_of
from sematext_agent.host_collector.packages.tree import Tree, Unreadable


class Place(msgspec.Struct, frozen=True, order=True):
    """A pattern of directories that may be roots of one kind."""

    kind: str
    pattern: str
    system: bool = False
    """True where a root that appears later is not news by itself but began empty: its first
    packages are told. Elsewhere a root that appears brings a whole set with it, and is silent."""


_HOMES = ("root", "home/*")
_SYSTEM_PREFIXES = ("usr", "usr/local")
_USER_PYTHON_PREFIXES = (
    ".pyenv/versions/*",
    ".local/share/pipx/venvs/*",
    ".local/pipx/venvs/*",
    ".local/share/uv/tools/*",
    ".local/share/uv/python/*",
    *(
        f"{conda}{env}"
        for conda in ("miniconda3", "anaconda3", "miniforge3", "mambaforge")
        for env in ("", "/envs/*")
    ),
)
_USER_NODE_PREFIXES = (
    ".nvm/versions/node/*",
    ".local/share/fnm/node-versions/*/installation",
    ".npm-global",
    ".asdf/installs/nodejs/*",
    ".volta/tools/image/packages/*",
    "n",
    "n/n/versions/node/*",
)


def pythons(prefix: str) -> list[Place]:
    """Where a Python that is installed at `prefix` has its packages."""
    system = prefix in _SYSTEM_PREFIXES
    return [
        Place("python", f"{prefix}/{lib}/{version}/{folder}", system)
        for lib in ("lib", "lib64")
        for version, folder in (
            ("python*", "site-packages"),
            ("python*", "dist-packages"),
            ("pypy*", "site-packages"),
        )
    ]


def nodes(prefix: str) -> Place:
    """Where a Node that is installed at `prefix` has its global packages."""
    path = f"{prefix}/lib/node_modules".lstrip("/")
    return Place("node", path, system=prefix in _SYSTEM_PREFIXES)


def _places() -> Iterable[Place]:
    yield Place("deb", "var/lib/dpkg", system=True)
    yield Place("deb-folder", "var/lib/dpkg/status.d", system=True)
    for path in ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"):
        yield Place("rpm", path, system=True)
    for prefix in _SYSTEM_PREFIXES:
        yield from pythons(prefix)
        yield nodes(prefix)
    for home in _HOMES:
        yield Place("python", f"{home}/.local/lib/python*/site-packages", system=True)
        for prefix in _USER_PYTHON_PREFIXES:
            yield from pythons(f"{home}/{prefix}")
        for prefix in _USER_NODE_PREFIXES:
            yield nodes(f"{home}/{prefix}")
    for prefix in ("opt/*", "opt/*/envs/*", "opt/pipx/venvs/*"):
        yield from pythons(prefix)
    for prefix in ("opt/*", "usr/local/nvm/versions/node/*", "usr/local/n/versions/node/*"):
        yield nodes(prefix)


PLACES = tuple(_places())


class Found(msgspec.Struct, frozen=True):
    """A root that exists."""

    kind: str
    path: str
    began_empty: bool
    """Whether its first packages are told; see `Place.system`."""
    inode: tuple[int, int]
    """What tells one directory from another, whatever path leads to it."""


def find(tree: Tree, places: Iterable[Place], managers: Iterable[str]) -> list[Found]:
    """The roots that exist in `tree` at these places, each once, by the first path to it.

    Args:
        managers: the ones whose packages are wanted.
    """
    wanted = frozenset(managers)
    found: dict[tuple[int, int], Found] = {}
    for place in places:
        for path in tree.glob(place.pattern):
            root = _found(tree, place, path)
            if root is not None and manager_of(root.kind, root.path) in wanted:
                found.setdefault(root.inode, root)
    return list(found.values())


def _found(tree: Tree, place: Place, path: str) -> Found | None:
    kind = place.kind
    if kind == "node" and tree.mark(f"{path}/{LOCK}"):
        kind = "node-project"
    try:
        folder = tree.stat(path)
        above = tree.stat(path.rpartition("/")[0] or ".")
        if folder is None or above is None or not READERS[kind].mark(tree, path):
            return None
    except (OSError, Unreadable):
        return None
    # A file system that was mounted here brings its packages with it.
    began_empty = place.system and folder.st_dev == above.st_dev
    return Found(kind, path, began_empty, (folder.st_dev, folder.st_ino))


def parents(tree: Tree) -> list[str]:
    """The directories in which a root of the system may appear."""
    patterns: dict[str, None] = {}
    for place in PLACES:
        if place.system and not place.pattern.startswith(_HOMES):
            parts = place.pattern.split("/")
            patterns |= dict.fromkeys("/".join(parts[:count]) for count in range(1, len(parts)))
    return [path for pattern in patterns for path in tree.glob(pattern)]


def named(path: str) -> list[Place]:
    """The places that a directory named by the user may stand for."""
    path = path.strip("/")
    if path.endswith("node_modules"):
        return [Place("node", path)]
    if path.endswith(("site-packages", "dist-packages")):
        return [Place("python", path)]
    return [
        *pythons(path),
        Place("node", f"{path}/node_modules"),
        Place("deb", path),
        Place("rpm", path),
    ]
