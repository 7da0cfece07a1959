"""What is installed in one place, and what the difference between two looks at it tells.

The rules that make a change one event and only one:

- A package has a *stamp*: what of the source tells this installation from a later one of the same
  version (the time its files were put there, the row of the rpm database). An event's id is made of
  the root, the package, its version and the stamp, all of them still there after a crash of ours.
- While a version stays, the stamp it was first seen with stays, so that a reinstallation, which
  renews the files and tells nothing, does not change the id of a later removal.
- An upgrade is the old version removed and the new one installed, each naming the other.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from typing import Literal

import msgspec

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import Event, PackageChange, event_id, format_rfc3339

Manager = Literal["deb", "rpm", "node", "python2", "python3"]

# An upgrade may change a package from one of these to a real architecture, or back.
_ANY_ARCHITECTURE = frozenset(("all", "noarch", ""))


class Package(msgspec.Struct, frozen=True, array_like=True, order=True):
    """One installed package."""

    name: str
    version: str
    architecture: str = ""
    stamp: int = 0
    """Tells this installation from another of the same version; see the module. The time, in
    nanoseconds since the epoch, except for rpm (see `rpm.installed_at`); 0 where nothing tells."""


class Root(msgspec.Struct, frozen=True, array_like=True):
    """One place that holds packages: a database, or a directory of them."""

    kind: str
    """Which of `readers.READERS` reads it."""
    path: str
    """Below the root of its file system, without a slash in front."""
    container_id: str = ""
    """Empty for the host itself."""


class Look(msgspec.Struct, frozen=True):
    """What one look at a root found."""

    packages: tuple[Package, ...]
    time_ns: int
    """When the root last changed, by the host's clock: the time of what was removed from it."""
    unfinished: bool = False
    """True while a package manager is seen at work: look again before believing it."""


class Origin(msgspec.Struct, frozen=True):
    """Where the packages of a root are, in the words of an event."""

    host: str
    manager: Manager
    container_name: str = ""
    container_image: str = ""


class Change(msgspec.Struct, frozen=True):
    """One package that came or went."""

    change: Literal["installed", "removed"]
    package: Package
    time_ns: int
    other_version: str = ""
    """The version on the other side of an upgrade."""


def settled(before: Iterable[Package], now: Iterable[Package]) -> tuple[Package, ...]:
    """`now`, each package once, with the stamps that packages already had `before`."""
    known = {_identity(package): package for package in before}
    found = {_identity(package): package for package in now}
    return tuple(known.get(identity, package) for identity, package in found.items())


def changes(
    before: Iterable[Package], look: Look, installed_at: Callable[[int], int]
) -> list[Change]:
    """What came and went between `before` and the look, sorted by name.

    Args:
        installed_at: the time that a stamp of these packages tells.
    """
    known = {_identity(package): package for package in before}
    # The same version can be there twice, as metadata in two forms. It counts once.
    there = {_identity(package): package for package in look.packages}
    left: dict[str, list[Package]] = defaultdict(list)
    come: dict[str, list[Package]] = defaultdict(list)
    for identity in known.keys() - there.keys():
        left[_name(known[identity])].append(known[identity])
    for identity in there.keys() - known.keys():
        come[_name(there[identity])].append(there[identity])
    found: list[Change] = []
    for name in sorted(left.keys() | come.keys()):
        # The newest version last, so that of several the same ones make a pair whenever asked.
        old, new = sorted(left[name]), sorted(come[name])
        times = [installed_at(package.stamp) or look.time_ns for package in new]
        found += _of_one_name(old, list(zip(new, times, strict=True)), look.time_ns)
    return found


def _identity(package: Package) -> tuple[str, str, str]:
    return package.name, package.version, package.architecture


def _name(package: Package) -> str:
    # A Python distribution may change how it writes its own name from one version to the next
    # (PEP 503); no other manager has two packages whose names differ in this alone.
    return re.sub(r"[-_.]+", "-", package.name).lower()


def _of_one_name(
    left: list[Package], come: list[tuple[Package, int]], time_ns: int
) -> list[Change]:
    """The changes of the packages of one name: what left, what came, and which two are one."""
    found: list[Change] = []
    for new, time in come:
        old = next((package for package in left if _replaces(new, package)), None)
        if old is not None:
            left.remove(old)
            found.append(Change("removed", old, time, new.version))
        found.append(Change("installed", new, time, old.version if old else ""))
    return [Change("removed", package, time_ns) for package in left] + found


def _replaces(new: Package, old: Package) -> bool:
    architectures = {new.architecture, old.architecture}
    return len(architectures) == 1 or bool(architectures & _ANY_ARCHITECTURE)


def events(root: Root, origin: Origin, found: list[Change]) -> Iterator[Event]:
    """The events that tell the changes, with ids that are the same whenever they are made."""
    ids = [_id(root, origin, change) for change in found]
    transaction = event_id(*ids)
    for id_, change in zip(ids, found, strict=True):
        yield _event(id_, root, origin, change, transaction)


def _id(root: Root, origin: Origin, change: Change) -> str:
    package = change.package
    return event_id(
        "package",
        origin.host,
        root.container_id,
        root.kind,
        root.path,
        change.change,
        package.name,
        package.version,
        package.architecture,
        package.stamp,
    )


def _event(id_: str, root: Root, origin: Origin, change: Change, transaction: str) -> Event:
    package = change.package
    installed = change.change == "installed"
    body = PackageChange(
        change=change.change,
        manager=origin.manager,
        name=package.name,
        version=package.version,
        architecture=package.architecture,
        previous_version=change.other_version if installed else "",
        next_version="" if installed else change.other_version,
        # A host has one database of deb or rpm, and many places of the others.
        path="" if origin.manager in ("deb", "rpm") else f"/{root.path}",
        transaction=transaction,
        container_id=root.container_id,
        container_name=origin.container_name,
        container_image=origin.container_image,
    )
    return Event(
        id=id_,
        time=format_rfc3339(change.time_ns),
        origin=origin.host,
        agent=AGENT_VERSION,
        body=body,
    )
