"""The reader of a `node_modules` directory: a global one, or that of a project.

npm writes `node_modules/.package-lock.json` of a project last, with the whole tree in it (npm 7 and
later). A global directory has no such file, and neither have yarn's and pnpm's: there, packages are
the directories with a `package.json`, without what they bring inside themselves. npm renames what
it is about to remove to `.…`, which shows that it is at work.
"""

from __future__ import annotations

import re

import msgspec

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.host_collector.packages.inventory import Package, RootScan
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import NS_PER_SECOND

LOCK_NAME = ".package-lock.json"
_MANIFEST_BYTES_MAX = 4 * 1024 * 1024
_LEFTOVER_NS = 60 * NS_PER_SECOND
"""Age from which a directory that npm renamed counts as left behind, and delays nothing."""
_FINISHING_NS = 1_500_000_000


class _NodeManifest(msgspec.Struct):
    name: str = ""
    version: str = ""
    link: bool = False
    """In a lock: a link to a directory outside, such as a workspace."""


class _NodeLock(msgspec.Struct):
    packages: dict[str, _NodeManifest] = {}


_retired = re.compile(r"\..+-[A-Za-z0-9]{8}")
"""The name that npm gives to a directory that it is about to remove."""
_manifest = msgspec.json.Decoder(_NodeManifest)
_lock = msgspec.json.Decoder(_NodeLock)


def fingerprint_project(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return numbers that change with a project's packages; empty where npm has no lock there."""
    return tree.fingerprint(f"{path}/{LOCK_NAME}")


def scan_project(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages in the `node_modules` of a project, by its lock.

    Raises:
        OSError: the lock cannot be read.
        UnreadableError: it is no lock, or is being written.
    """
    written_ns = tree.change_time_ns(f"{path}/{LOCK_NAME}")
    try:
        lock = _lock.decode(tree.read(f"{path}/{LOCK_NAME}"))
    except DECODE_ERRORS as error:
        raise UnreadableError(f"/{path}/{LOCK_NAME}: {error}") from error
    packages: dict[tuple[str, str], Package] = {}
    for location, entry in lock.packages.items():
        _, separator, name = location.rpartition("node_modules/")
        if separator and not entry.link and (name, entry.version) not in packages:
            manifest = f"{path}/{location.removeprefix('node_modules/')}/package.json"
            stamp = tree.change_time_ns(manifest) if ".." not in location else 0
            packages[name, entry.version] = Package(name, entry.version, "", stamp)
    return RootScan(tuple(packages.values()), written_ns)


def fingerprint_folder(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return numbers that change with the packages in `path`; empty where it does not exist."""
    fingerprint = tree.fingerprint(path)
    for scope in _scopes(tree, path) if fingerprint else ():
        fingerprint += tree.fingerprint(scope)
    return fingerprint


def scoped_folders(tree: FileTree, path: str) -> list[str]:
    """Return `path` and the directories of scoped packages (`@scope/name`) in it."""
    return [path, *_scopes(tree, path)]


def _scopes(tree: FileTree, path: str) -> list[str]:
    return [f"{path}/{name}" for name in tree.names(path) if name.startswith("@")]


def scan_folder(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages in the directory `path`, and in its scopes.

    Args:
        tree: the file system.
        path: the directory.
        before: the stored inventory; a package whose manifest is damaged keeps its entry.
        now_ns: the time in nanoseconds since the epoch.

    Raises:
        OSError, UnreadableError: it cannot be read.
    """
    previous = {package.name: package for package in before}
    packages: list[Package] = []
    unfinished = False
    changed_ns = 0
    for folder in scoped_folders(tree, path):
        status = tree.stat(folder)
        changed_ns = max(changed_ns, status.st_mtime_ns if status else 0)
        for name in tree.names(folder):
            entry = f"{folder}/{name}"
            if name.startswith("."):
                is_retired = _retired.fullmatch(name) is not None
                unfinished |= is_retired and _is_younger(tree, entry, now_ns, _LEFTOVER_NS)
            elif not name.startswith("@"):
                package = _package(tree, entry, entry.removeprefix(f"{path}/"), previous)
                if package is not None:
                    packages.append(package)
                else:
                    unfinished |= _is_younger(tree, entry, now_ns, _FINISHING_NS)
    return RootScan(tuple(packages), changed_ns, unfinished)


def _package(tree: FileTree, path: str, name: str, previous: dict[str, Package]) -> Package | None:
    """Return the package in the directory `path`; None where there is none (yet)."""
    try:
        manifest = _manifest.decode(tree.read(f"{path}/package.json", _MANIFEST_BYTES_MAX))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (UnreadableError, *DECODE_ERRORS):
        return previous.get(name)
    return Package(name, manifest.version, "", tree.change_time_ns(f"{path}/package.json"))


def _is_younger(tree: FileTree, path: str, now_ns: int, age_ns: int) -> bool:
    """Return whether `path` is a directory that changed less than `age_ns` ago."""
    # The absolute value, because the clock may have been set back.
    return tree.is_folder(path) and abs(now_ns - tree.change_time_ns(path)) < age_ns
