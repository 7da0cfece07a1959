"""The difference between two scans: pairs of an upgrade, and stamps that stay."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector.packages.diff import diff_inventories, keep_first_stamps
from sematext_agent.host_collector.packages.inventory import Package, RootScan


def _diff(before: list[Package], now: list[Package]) -> list[str]:
    changes = diff_inventories(before, RootScan(tuple(now), 7), lambda stamp: stamp)
    return [
        f"{c.change[0]} {c.package.name} {c.package.version} {c.package.architecture} "
        f"{c.other_version}".strip()
        for c in changes
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


def test_of_several_versions_those_that_stay_are_no_change() -> None:
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
    """Each difference is one change, and the next scan of the same shows none."""
    old = keep_first_stamps((), before)
    present = {(p.name, p.version, p.architecture) for p in old}
    for change in diff_inventories(old, RootScan(tuple(now), 0), lambda stamp: stamp):
        package = change.package
        identity = package.name, package.version, package.architecture
        assert (identity in present) == (change.change == "removed")
        present ^= {identity}
    after = keep_first_stamps(old, now)
    assert present == {(p.name, p.version, p.architecture) for p in after}
    assert diff_inventories(after, RootScan(tuple(now), 0), lambda stamp: stamp) == []


def test_a_reinstallation_does_not_change_the_id_of_the_removal() -> None:
    """It renews the stamp on the disk. Whether that was stored before a crash must not matter."""
    first, again = Package("a", "1", "", stamp=5), Package("a", "1", "", stamp=6)
    assert keep_first_stamps([first], [again]) == (first,)
