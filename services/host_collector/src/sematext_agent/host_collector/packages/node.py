"""Reads a `node_modules` directory: a global one, or that of a project.

npm writes `node_modules/.package-lock.json` of a project last, with the whole tree in it (npm 7 and
later). A global directory has no such file, and neither have yarn's and pnpm's: there, what is
installed are the directories with a `package.json`, and what such a package brings with it inside
itself is not told. npm renames what it is about to remove to `.…`, which tells that it is at work.
"""

from __future__ import annotations

import re
import time

import msgspec

from sematext_agent.host_collector.packages.inventory import Look, Package
from sematext_agent.host_collector.packages.python import LEFTOVER_SECONDS, changed_at
from sematext_agent.host_collector.packages.tree import Tree, Unreadable
from sematext_agent.shared.decode_errors import DECODE_ERRORS

LOCK = ".package-lock.json"
_MANIFEST_BYTES_MAX = 4 * 1024 * 1024
_FINISHING_SECONDS = 1.5


class _Manifest(msgspec.Struct):
    name: str = ""
    version: str = ""
    link: bool = False
    """In a lock: a link to a directory outside, such as a workspace."""


class _Lock(msgspec.Struct):
    packages: dict[str, _Manifest] = {}


_retired = re.compile(r"\..+-[A-Za-z0-9]{8}")
"""How npm calls a directory that it is about to remove."""
_manifest = msgspec.json.Decoder(_Manifest)
_lock = msgspec.json.Decoder(_Lock)


def mark_project(tree: Tree, path: str) -> tuple[int, ...]:
    """What changes with every change of a project's tree; empty where npm has written none."""
    return tree.mark(f"{path}/{LOCK}")


def read_project(tree: Tree, path: str, before: tuple[Package, ...]) -> Look:
    """The packages in the `node_modules` of a project, by its lock.

    Raises:
        OSError: the lock cannot be read.
        Unreadable: it is no lock, or is being written.
    """
    written = changed_at(tree, f"{path}/{LOCK}")
    try:
        lock = _lock.decode(tree.read(f"{path}/{LOCK}"))
    except DECODE_ERRORS as error:
        raise Unreadable(f"/{path}/{LOCK}: {error}") from error
    packages: dict[tuple[str, str], Package] = {}
    for place, entry in lock.packages.items():
        _, found, name = place.rpartition("node_modules/")
        if found and not entry.link and (name, entry.version) not in packages:
            at = f"{path}/{place.removeprefix('node_modules/')}/package.json"
            stamp = changed_at(tree, at) if ".." not in place else 0
            packages[name, entry.version] = Package(name, entry.version, "", stamp)
    return Look(tuple(packages.values()), written)


def mark_folder(tree: Tree, path: str) -> tuple[int, ...]:
    """What changes with every package that comes or goes; empty where there is no directory."""
    mark = tree.mark(path)
    for scope in scopes(tree, path) if mark else ():
        mark += tree.mark(scope)
    return mark


def scopes(tree: Tree, path: str) -> list[str]:
    """The directories of scoped packages (`@scope/name`) in `path`."""
    return [f"{path}/{name}" for name in tree.names(path) if name.startswith("@")]


def read_folder(tree: Tree, path: str, before: tuple[Package, ...]) -> Look:
    """The packages that stand in the directory `path`, and in its scopes.

    Args:
        before: what was installed at the last look; a package whose manifest is damaged keeps it.

    Raises:
        OSError, Unreadable: it cannot be read.
    """
    known = {package.name: package for package in before}
    packages: list[Package] = []
    unfinished = False
    changed = 0
    for folder in (path, *scopes(tree, path)):
        found = tree.stat(folder)
        changed = max(changed, found.st_mtime_ns if found else 0)
        for name in tree.names(folder):
            at = f"{folder}/{name}"
            if name.startswith("."):
                retired = _retired.fullmatch(name) is not None
                unfinished |= retired and _is_younger(tree, at, LEFTOVER_SECONDS)
            elif not name.startswith("@"):
                package = _package(tree, at, at.removeprefix(f"{path}/"), known)
                if package is not None:
                    packages.append(package)
                else:
                    unfinished |= _is_younger(tree, at, _FINISHING_SECONDS)
    return Look(tuple(packages), changed, unfinished)


def _package(tree: Tree, path: str, name: str, known: dict[str, Package]) -> Package | None:
    """The package in the directory `path`; None where there is none (yet)."""
    try:
        manifest = _manifest.decode(tree.read(f"{path}/package.json", _MANIFEST_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (Unreadable, *DECODE_ERRORS):
        return known.get(name)
    return Package(name, manifest.version, "", changed_at(tree, f"{path}/package.json"))


def _is_younger(tree: Tree, path: str, seconds: float) -> bool:
    """Whether `path` is a directory that was changed in the last `seconds`."""
    return tree.is_folder(path) and abs(time.time() - changed_at(tree, path) / 1e9) < seconds
