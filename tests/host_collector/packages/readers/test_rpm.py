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
from package_run import PackageRun

from sematext_agent.host_collector.file_tree import UnreadableError, open_tree
from sematext_agent.host_collector.packages.inventory import Package
from sematext_agent.host_collector.packages.readers import rpm as reader


@pytest.fixture
def rpm(tmp_path: Path) -> Rpm:
    root = tmp_path / "host"
    root.mkdir()
    return Rpm(root)


async def test_installations_upgrades_and_removals_are_one_event_each(rpm: Rpm) -> None:
    """`rpm -i`, `-U` and `-e`, several at once; the removal of the last package is an event too."""
    first, second = rpm.build("one", "1.0", epoch=3), rpm.build("two", "1.0")
    newer = rpm.build("one", "1.1", epoch=3), rpm.build("two", "1.1")
    async with PackageRun(rpm.root) as run:
        await asyncio.to_thread(rpm, "-i", first, second)
        assert await run.expect_events(2) == [
            "installed rpm one 3:1.0-1",
            "installed rpm two 1.0-1",
        ]
        await asyncio.to_thread(rpm, "-U", *newer)
        assert (await run.expect_events(6))[2:] == [
            "removed rpm one 3:1.0-1 -> 3:1.1-1",
            "installed rpm one 3:1.1-1 <- 3:1.0-1",
            "removed rpm two 1.0-1 -> 1.1-1",
            "installed rpm two 1.1-1 <- 1.0-1",
        ]
        await asyncio.to_thread(rpm, "-e", "one", "two")
        assert (await run.expect_events(8))[6:] == [
            "removed rpm one 3:1.1-1",
            "removed rpm two 1.1-1",
        ]


async def test_a_version_that_is_removed_and_installed_again_has_three_ids(rpm: Rpm) -> None:
    """Within one second, which is as fine as rpm's own time is; a reinstallation emits no event."""
    package = rpm.build("one", "1.0")
    async with PackageRun(rpm.root) as run:
        commands: list[list[str | Path]] = [["-i", package], ["-e", "one"], ["-i", package]]
        for count, arguments in enumerate(commands):
            await asyncio.to_thread(rpm, *arguments)
            await run.expect_events(count + 1)
        await asyncio.to_thread(rpm, "-U", "--replacepkgs", package)
        await run.pass_time()
        assert [word.split()[0] for word in run.summaries()] == [
            "installed",
            "removed",
            "installed",
        ]


async def test_two_versions_of_a_kernel_may_be_installed(rpm: Rpm) -> None:
    old, new = rpm.build("kernel", "6.1"), rpm.build("kernel", "6.2")
    rpm("-i", old)
    async with PackageRun(rpm.root) as run:
        await asyncio.to_thread(rpm, "-i", new)
        assert await run.expect_events(1) == ["installed rpm kernel 6.2-1"]
        await asyncio.to_thread(rpm, "-e", "kernel-6.1-1")
        assert (await run.expect_events(2))[1:] == ["removed rpm kernel 6.1-1"]


async def test_no_event_is_emitted_during_a_transaction(rpm: Rpm) -> None:
    """An upgrade has both versions in the database until it ends, and its lock is free."""
    rpm("-i", rpm.build("one", "1.0"))
    newer = rpm.build("one", "1.1")
    async with PackageRun(rpm.root) as run:
        with locked(rpm.root / "var/lib/rpm/.rpm.lock"):
            database = rpm.root / "var/lib/rpm/rpmdb.sqlite"
            with closing(sqlite3.connect(database)) as connection, connection:
                header = connection.execute("SELECT blob FROM Packages").fetchone()[0]
                row = [header.replace(b"1.0", b"1.1")]
                connection.execute("INSERT INTO Packages (blob) VALUES (?)", row)
            await run.pass_time(1.5)
            assert run.summaries() == []
            with closing(sqlite3.connect(database)) as connection, connection:
                connection.execute("DELETE FROM Packages WHERE hnum = 2")
        await asyncio.to_thread(rpm, "-U", newer)
        assert len(await run.expect_events(2)) == 2


def test_the_write_ahead_log_is_read_and_no_file_is_left_beside_it(
    rpm: Rpm,
) -> None:
    """A connection that stays open keeps the newest rows in the write-ahead log."""
    rpm("-i", rpm.build("one", "1.0"))
    folder = rpm.root / "var/lib/rpm"
    with closing(sqlite3.connect(folder / "rpmdb.sqlite")) as connection:
        header = connection.execute("SELECT blob FROM Packages").fetchone()[0]
        connection.execute("PRAGMA wal_autocheckpoint=0")
        connection.execute(
            "INSERT INTO Packages (blob) VALUES (?)", [header.replace(b"1.0", b"9.9")]
        )
        connection.commit()
        assert (folder / "rpmdb.sqlite-wal").stat().st_size > 0
        before = sorted(path.name for path in folder.iterdir())
        with open_tree(str(rpm.root)) as tree:
            packages = reader.scan(tree, "var/lib/rpm", (), 0).packages
        assert [package.version for package in packages] == ["1.0-1", "9.9-1"]
        assert sorted(path.name for path in folder.iterdir()) == before


def test_a_damaged_database_is_unreadable(rpm: Rpm) -> None:
    rpm("-i", rpm.build("one", "1.0"))
    database = rpm.root / "var/lib/rpm/rpmdb.sqlite"
    whole = database.read_bytes()
    with open_tree(str(rpm.root)) as tree:
        for damaged in (b"", b"x" * len(whole), whole[: len(whole) // 2]):
            database.write_bytes(damaged)
            with pytest.raises(UnreadableError, match=r"rpmdb\.sqlite"):
                reader.scan(tree, "var/lib/rpm", (), 0)


def _header(*fields: tuple[int, int, bytes]) -> bytes:
    """Return a header as rpm stores it, of fields with their tag, type and value."""
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
