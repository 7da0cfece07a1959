"""The difference between the stored inventory of a root and a new scan. No I/O."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable

from sematext_agent.host_collector.packages.inventory import InventoryChange, Package, RootScan

# An upgrade may change a package from one of these to a real architecture, or back.
_ANY_ARCHITECTURE = frozenset(("all", "noarch", ""))


def keep_first_stamps(before: Iterable[Package], now: Iterable[Package]) -> tuple[Package, ...]:
    """Return `now`, each package once, with the stamps that packages already had `before`."""
    first = {_identity(package): package for package in before}
    current = {_identity(package): package for package in now}
    return tuple(first.get(identity, package) for identity, package in current.items())


def diff_inventories(
    before: Iterable[Package], scan: RootScan, installed_at: Callable[[int], int]
) -> list[InventoryChange]:
    """Return the packages installed and removed between `before` and the scan, sorted by name.

    Args:
        before: the stored inventory.
        scan: the new scan of the same root.
        installed_at: returns the installation time in a stamp of these packages, 0 if unknown.
    """
    old = {_identity(package): package for package in before}
    # The same version can be there twice, as metadata in two forms. It counts once.
    new = {_identity(package): package for package in scan.packages}
    removed: dict[str, list[Package]] = defaultdict(list)
    installed: dict[str, list[Package]] = defaultdict(list)
    for identity in old.keys() - new.keys():
        removed[_normalized_name(old[identity])].append(old[identity])
    for identity in new.keys() - old.keys():
        installed[_normalized_name(new[identity])].append(new[identity])
    changes: list[InventoryChange] = []
    for name in sorted(removed.keys() | installed.keys()):
        # The newest version last, so that of several the pairs are always the same.
        packages = sorted(installed[name])
        times = [installed_at(package.stamp) or scan.time_ns for package in packages]
        pairs = list(zip(packages, times, strict=True))
        changes += _pair_upgrades(sorted(removed[name]), pairs, scan.time_ns)
    return changes


def _identity(package: Package) -> tuple[str, str, str]:
    return package.name, package.version, package.architecture


def _normalized_name(package: Package) -> str:
    # A Python distribution may change how it writes its own name from one version to the next
    # (PEP 503); no other manager has two packages whose names differ in this alone.
    return re.sub(r"[-_.]+", "-", package.name).lower()


def _pair_upgrades(
    removed: list[Package], installed: list[tuple[Package, int]], time_ns: int
) -> list[InventoryChange]:
    """Return the changes of the packages of one name: removals, installations and upgrades."""
    changes: list[InventoryChange] = []
    for new, time in installed:
        old = next((package for package in removed if _replaces(new, package)), None)
        if old is not None:
            removed.remove(old)
            changes.append(InventoryChange("removed", old, time, new.version))
        changes.append(InventoryChange("installed", new, time, old.version if old else ""))
    return [InventoryChange("removed", package, time_ns) for package in removed] + changes


def _replaces(new: Package, old: Package) -> bool:
    architectures = {new.architecture, old.architecture}
    return len(architectures) == 1 or bool(architectures & _ANY_ARCHITECTURE)
