"""What the difference between two looks tells: pairs, identities, and ids that stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector.packages.followed import Told
from sematext_agent.host_collector.packages.inventory import (
    Look,
    Origin,
    Package,
    Root,
    changes,
    events,
    settled,
)
from sematext_agent.shared.events import PackageChange

ROOT, ORIGIN = Root("deb", "var/lib/dpkg"), Origin("web-01", "deb")


def _diff(before: list[Package], now: list[Package]) -> list[str]:
    found = changes(before, Look(tuple(now), 7), lambda stamp: stamp)
    return [
        f"{c.change[0]} {c.package.name} {c.package.version} {c.package.architecture} "
        f"{c.other_version}".strip()
        for c in found
    ]


def test_architectures_are_upgraded_apart_and_one_may_become_any() -> None:
    amd, i386 = Package("libc6", "1", "amd64"), Package("libc6", "1", "i386")
    assert _diff([amd, i386], [Package("libc6", "2", "amd64"), Package("libc6", "2", "i386")]) == [
        "r libc6 1 amd64 2",
        "i libc6 2 amd64 1",
        "r libc6 1 i386 2",
        "i libc6 2 i386 1",
    ]
    assert _diff([amd, i386], [amd]) == ["r libc6 1 i386"]
    assert _diff([amd], [i386]) == ["r libc6 1 amd64", "i libc6 1 i386"]
    assert _diff([Package("doc", "1", "noarch")], [Package("doc", "2", "x86_64")]) == [
        "r doc 1 noarch 2",
        "i doc 2 x86_64 1",
    ]


def test_of_several_versions_those_that_stay_tell_nothing() -> None:
    """As of kernels, of which the oldest goes when the newest comes."""
    old, middle, new = (Package("kernel", f"6.{n}") for n in range(3))
    assert _diff([old, middle], [middle, new]) == ["r kernel 6.0  6.2", "i kernel 6.2  6.0"]
    assert _diff([old], [old, middle, new]) == ["i kernel 6.1", "i kernel 6.2"]
    assert _diff([middle], [middle, Package("kernel", "6.1", "", stamp=9)]) == []


_packages = st.lists(
    st.builds(
        Package,
        st.sampled_from(["a", "A", "b-c", "b_c"]),
        st.sampled_from("12"),
        st.sampled_from(["", "x"]),
        st.integers(0, 3),
    ),
    max_size=6,
)


@given(_packages, _packages)
def test_the_changes_lead_from_one_inventory_to_the_next(
    before: list[Package], now: list[Package]
) -> None:
    """Each difference is told once, and the next look at the same tells nothing."""
    known = settled((), before)
    there = {(p.name, p.version, p.architecture) for p in known}
    for change in changes(known, Look(tuple(now), 0), lambda stamp: stamp):
        package = change.package
        identity = package.name, package.version, package.architecture
        assert (identity in there) == (change.change == "removed")
        there ^= {identity}
    after = settled(known, now)
    assert there == {(p.name, p.version, p.architecture) for p in after}
    assert changes(after, Look(tuple(now), 0), lambda stamp: stamp) == []


def test_a_reinstallation_does_not_change_the_id_of_the_removal() -> None:
    """It renews the stamp on the disk. Whether that was stored before a crash must not matter."""
    first, again = Package("a", "1", "", stamp=5), Package("a", "1", "", stamp=6)
    assert settled([first], [again]) == (first,)


def test_ids_tell_hosts_containers_roots_and_installations_apart() -> None:
    origins = [ORIGIN, Origin("web-02", "deb")]
    places = [ROOT, Root("deb", "var/lib/dpkg", "c" * 64), Root("deb", "srv/dpkg")]
    packages = [Package("a", "1", "x", 5), Package("a", "1", "x", 6), Package("a", "1", "y", 5)]
    found = [
        event.id
        for origin in origins
        for place in places
        for package in packages
        for event in events(place, origin, changes([], Look((package,), 0), int))
    ]
    assert len(set(found)) == len(found) == 18


def test_the_cursor_comes_with_the_last_event_and_not_before() -> None:
    look = Look(tuple(Package(name, "1") for name in "abc"), 1)
    told = Told(ROOT, ORIGIN, changes([], look, int), [("p", b"1"), ("q", b"2")])
    observed = list(told.observations())
    assert [o.cursor for o in observed] == [None, None, b"1", b"2"]
    bodies = [o.event.body for o in observed if o.event]
    assert len({b.transaction for b in bodies if isinstance(b, PackageChange)}) == 1
    assert len(bodies) == 3
    silent = Told(ROOT, ORIGIN, [], [("p", b"1")])
    assert [(o.event, o.cursor) for o in silent.observations()] == [(None, b"1")]
