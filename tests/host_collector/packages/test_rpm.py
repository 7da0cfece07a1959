"""rpm: real packages, built here and installed by a real rpm into a directory that is a host's."""

from __future__ import annotations

import asyncio
import sqlite3
import struct
from contextlib import closing, suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from package_managers import Rpm, locked
from package_run import Run

from sematext_agent.host_collector.packages import rpm as reader
from sematext_agent.host_collector.packages.inventory import Package
from sematext_agent.host_collector.packages.tree import Unreadable, tree_at


@pytest.fixture
def rpm(tmp_path: Path) -> Rpm:
    root = tmp_path / "host"
    root.mkdir()
    return Rpm(root)


async def test_installations_upgrades_and_removals_are_told_once_each(rpm: Rpm) -> None:
    """`rpm -i`, `-U` and `-e`, several at once; the last package that goes is told too."""
    one, two = rpm.build("one", "1.0", epoch=3), rpm.build("two", "1.0")
    newer = rpm.build("one", "1.1", epoch=3), rpm.build("two", "1.1")
    async with Run(rpm.root) as run:
        await asyncio.to_thread(rpm, "-i", one, two)
        assert await run.until_told(2) == ["installed rpm one 3:1.0-1", "installed rpm two 1.0-1"]
        await asyncio.to_thread(rpm, "-U", *newer)
        assert (await run.until_told(6))[2:] == [
            "removed rpm one 3:1.0-1 -> 3:1.1-1",
            "installed rpm one 3:1.1-1 <- 3:1.0-1",
            "removed rpm two 1.0-1 -> 1.1-1",
            "installed rpm two 1.1-1 <- 1.0-1",
        ]
        await asyncio.to_thread(rpm, "-e", "one", "two")
        assert (await run.until_told(8))[6:] == ["removed rpm one 3:1.1-1", "removed rpm two 1.1-1"]


async def test_the_same_version_may_come_go_and_come_again(rpm: Rpm) -> None:
    """Within one second, which is as fine as rpm's own time is; a reinstallation tells nothing."""
    package = rpm.build("one", "1.0")
    async with Run(rpm.root) as run:
        for count, arguments in enumerate((("-i", package), ("-e", "one"), ("-i", package))):
            await asyncio.to_thread(rpm, *arguments)
            await run.until_told(count + 1)
        await asyncio.to_thread(rpm, "-U", "--replacepkgs", package)
        await run.quiet()
        assert [word.split()[0] for word in run.words()] == ["installed", "removed", "installed"]


async def test_two_versions_of_a_kernel_may_be_installed(rpm: Rpm) -> None:
    old, new = rpm.build("kernel", "6.1"), rpm.build("kernel", "6.2")
    rpm("-i", old)
    async with Run(rpm.root) as run:
        await asyncio.to_thread(rpm, "-i", new)
        assert await run.until_told(1) == ["installed rpm kernel 6.2-1"]
        await asyncio.to_thread(rpm, "-e", "kernel-6.1-1")
        assert (await run.until_told(2))[1:] == ["removed rpm kernel 6.1-1"]


async def test_nothing_is_told_in_the_midst_of_a_transaction(rpm: Rpm) -> None:
    """An upgrade has both versions in the database until it ends, and its lock is free."""
    rpm("-i", rpm.build("one", "1.0"))
    newer = rpm.build("one", "1.1")
    async with Run(rpm.root) as run:
        with locked(rpm.root / "var/lib/rpm/.rpm.lock"):
            database = rpm.root / "var/lib/rpm/rpmdb.sqlite"
            with closing(sqlite3.connect(database)) as connection, connection:
                header = connection.execute("SELECT blob FROM Packages").fetchone()[0]
                both = [header.replace(b"1.0", b"1.1")]
                connection.execute("INSERT INTO Packages (blob) VALUES (?)", both)
            await run.quiet(1.5)
            assert run.words() == []
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("DELETE FROM Packages WHERE hnum = 2")
        await asyncio.to_thread(rpm, "-U", newer)
        assert len(await run.until_told(2)) == 2


def test_what_is_still_in_the_log_of_the_database_is_read_and_nothing_is_left_there(
    rpm: Rpm,
) -> None:
    """A connection that stays open keeps the newest rows in the write-ahead log."""
    rpm("-i", rpm.build("one", "1.0"))
    folder = rpm.root / "var/lib/rpm"
    with closing(sqlite3.connect(folder / "rpmdb.sqlite")) as open_one:
        header = open_one.execute("SELECT blob FROM Packages").fetchone()[0]
        open_one.execute("PRAGMA wal_autocheckpoint=0")
        open_one.execute("INSERT INTO Packages (blob) VALUES (?)", [header.replace(b"1.0", b"9.9")])
        open_one.commit()
        assert (folder / "rpmdb.sqlite-wal").stat().st_size > 0
        before = sorted(path.name for path in folder.iterdir())
        with tree_at(str(rpm.root)) as tree:
            found = reader.read(tree, "var/lib/rpm", ()).packages
        assert [package.version for package in found] == ["1.0-1", "9.9-1"]
        assert sorted(path.name for path in folder.iterdir()) == before


def test_a_damaged_database_is_unreadable(rpm: Rpm) -> None:
    rpm("-i", rpm.build("one", "1.0"))
    database = rpm.root / "var/lib/rpm/rpmdb.sqlite"
    whole = database.read_bytes()
    with tree_at(str(rpm.root)) as tree:
        for damaged in (b"", b"x" * len(whole), whole[: len(whole) // 2]):
            database.write_bytes(damaged)
            with pytest.raises(Unreadable, match=r"rpmdb\.sqlite"):
                reader.read(tree, "var/lib/rpm", ())


def _header(*fields: tuple[int, int, bytes]) -> bytes:
    """A header as rpm stores it, of fields with their tag, type and value."""
    index, store = b"", b""
    for tag, kind, value in fields:
        index += struct.pack(">IIII", tag, kind, len(store), 1)
        store += value
    return struct.pack(">II", len(fields), len(store)) + index + store


def test_a_header_is_read_and_a_key_of_a_signature_is_no_package() -> None:
    fields = (
        (1000, 6, b"bash\0"),
        (1001, 6, b"5.2\0"),
        (1002, 6, b"3.el9\0"),
        (1022, 6, b"x86_64\0"),
    )
    times = (1003, 4, struct.pack(">I", 7)), (1008, 4, struct.pack(">I", 1_700_000_000))
    package = reader.package_of(5, _header(*fields, *times))
    assert package == Package("bash", "7:5.2-3.el9", "x86_64", 1_700_000_000 << 32 | 5)
    assert reader.installed_at(package.stamp) == 1_700_000_000_000_000_000
    assert reader.package_of(6, _header((1000, 6, b"gpg-pubkey\0"))) is None
    # Installed again within the second, it is another row of the database.
    later = reader.package_of(6, _header(*fields, *times))
    assert later is not None
    assert later.stamp != package.stamp


def test_a_field_that_leads_out_of_its_header_is_damage() -> None:
    whole = _header((1000, 6, b"bash\0"), (1003, 4, b"\0\0\0\1"))
    for entry in (0, 1):
        at = 8 + 16 * entry + 8
        for offset in (9, 1000, 2**32 - 1):
            damaged = whole[:at] + struct.pack(">I", offset) + whole[at + 4 :]
            with pytest.raises(ValueError, match="leads out of it"):
                reader.package_of(1, damaged)
    with pytest.raises(ValueError, match="leads out of it"):
        reader.package_of(1, _header((1000, 6, b"bash")))


@given(
    st.binary(max_size=200)
    | st.builds(
        lambda head, cut, extra: head[:cut] + extra,
        st.just(_header((1000, 6, b"bash\0"), (1001, 6, b"5.2\0"), (1003, 4, b"\0\0\0\1"))),
        st.integers(0, 80),
        st.binary(max_size=80),
    )
)
def test_no_header_however_damaged_breaks_the_reader(header: bytes) -> None:
    """It is a package, or a ValueError says what is wrong."""
    with suppress(ValueError):
        package = reader.package_of(1, header)
        assert package is None or package.name
