"""The values that the other modules exchange: scan roots, their packages, and changes.

The rules that make a change one event and only one:

- A package has a *stamp*: what at the source distinguishes this installation from a later one of
  the same version (the time its files were created, the row of the rpm database). An event's id is
  made of the root, the package, its version and the stamp, which all survive a crash of this
  process.
- While a version stays, the stamp it was first seen with stays, so that a reinstallation, which
  renews the files and emits nothing, does not change the id of a later removal.
- An upgrade is the old version removed and the new one installed, each naming the other.
"""

from __future__ import annotations

import re
from typing import Literal

import msgspec

Manager = Literal["deb", "rpm", "node", "python2", "python3"]

KINDS = frozenset(("deb", "deb-folder", "rpm", "python", "node", "node-project"))
"""The kinds of scan roots that can be read: the keys of `readers.READERS`."""


class Package(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One installed package."""

    name: str
    version: str
    architecture: str = ""
    stamp: int = 0
    """Distinguishes this installation from another of the same version; see the module. The time,
    in nanoseconds since the epoch, except for rpm (see `rpm.installed_at`); 0 where it is unknown.
    """


class ScanRoot(msgspec.Struct, frozen=True, array_like=True):
    """A directory that holds packages: a database, or the packages themselves."""

    kind: str
    """One of `KINDS`."""
    path: str
    """Below the root of its file system, without a slash in front."""
    container_id: str = ""
    """Empty for the host itself."""


class RootScan(msgspec.Struct, frozen=True):
    """The result of one scan of a root."""

    packages: tuple[Package, ...]
    time_ns: int
    """The last change of the root, by the host's clock: the time of what was removed from it."""
    unfinished: bool = False
    """True while a package manager is seen at work: scan again before using the result."""


class PackageOrigin(msgspec.Struct, frozen=True):
    """The host, manager and container of a root's packages, as they are written into events."""

    host: str
    manager: Manager
    container_name: str = ""
    container_image: str = ""


class InventoryChange(msgspec.Struct, frozen=True):
    """One package that was installed or removed."""

    change: Literal["installed", "removed"]
    package: Package
    time_ns: int
    other_version: str = ""
    """The version on the other side of an upgrade."""


class RootDiff(msgspec.Struct, frozen=True):
    """The changes of one root, and the cursors that make them permanent."""

    root: ScanRoot
    origin: PackageOrigin
    changes: list[InventoryChange]
    cursors: list[tuple[str, bytes]]
    """Pairs of a cursor's name and the cursor, at least one."""


def manager_of(kind: str, path: str) -> Manager:
    """Return the package manager, as events name it, of a root of `kind` at `path`."""
    if kind == "python":
        return "python2" if re.search(r"/(?:python|pypy)2(?:\.\d+)?/", path) else "python3"
    return "rpm" if kind == "rpm" else "node" if kind.startswith("node") else "deb"
