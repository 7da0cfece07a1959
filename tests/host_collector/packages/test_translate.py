"""Events of packages: ids that stay, and cursors that come with the last event."""

from __future__ import annotations

from sematext_agent.host_collector.packages.inventory import (
    InventoryChange,
    Package,
    PackageOrigin,
    RootDiff,
    ScanRoot,
)
from sematext_agent.host_collector.packages.translate import translate
from sematext_agent.shared.events import PackageChange

ROOT, ORIGIN = ScanRoot("deb", "var/lib/dpkg"), PackageOrigin("web-01", "deb")


def _diff(root: ScanRoot, origin: PackageOrigin, *packages: Package) -> RootDiff:
    changes = [InventoryChange("installed", package, 1) for package in packages]
    return RootDiff(root, origin, changes, [("p", b"1"), ("q", b"2")])


def test_the_id_of_an_event_stays_from_one_version_of_the_agent_to_the_next() -> None:
    (event, *_) = [o.event for o in translate(_diff(ROOT, ORIGIN, Package("a", "1", "x", 5)))]
    assert event is not None
    assert event.id == "28987030e9a10ec3e11b873cdbab6f16"


def test_hosts_containers_roots_and_installations_have_different_ids() -> None:
    origins = [ORIGIN, PackageOrigin("web-02", "deb")]
    roots = [ROOT, ScanRoot("deb", "var/lib/dpkg", "c" * 64), ScanRoot("deb", "srv/dpkg")]
    packages = [Package("a", "1", "x", 5), Package("a", "1", "x", 6), Package("a", "1", "y", 5)]
    ids = [
        observation.event.id
        for origin in origins
        for root in roots
        for package in packages
        for observation in translate(_diff(root, origin, package))
        if observation.event
    ]
    assert len(set(ids)) == len(ids) == 18


def test_the_cursor_comes_with_the_last_event_and_not_before() -> None:
    observations = list(translate(_diff(ROOT, ORIGIN, *[Package(name, "1") for name in "abc"])))
    assert [o.cursor for o in observations] == [None, None, b"1", b"2"]
    bodies = [o.event.body for o in observations if o.event]
    assert len({b.transaction for b in bodies if isinstance(b, PackageChange)}) == 1
    assert len(bodies) == 3
    silent = RootDiff(ROOT, ORIGIN, [], [("p", b"1")])
    assert [(o.event, o.cursor) for o in translate(silent)] == [(None, b"1")]
