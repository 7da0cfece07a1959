"""rpm's older databases: real headers, that a real rpm made, in NDB and Berkeley DB.

Berkeley DB itself writes the second (`db5.3_load`), and rpm's own reader of it is asked as well.
No rpm of Debian writes NDB: it is laid out here as rpm's rpmpkg.c does.
"""

from __future__ import annotations

import os
import sqlite3
import struct
import subprocess
import zlib
from collections.abc import Callable, Iterable
from contextlib import closing
from pathlib import Path
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from package_managers import Rpm, locked, tool
from package_run import PackageRun

from sematext_agent.host_collector.file_tree import UnreadableError, open_tree
from sematext_agent.host_collector.packages.readers import rpm as reader
from sematext_agent.host_collector.packages.readers.rpm_backends import bdb_headers, ndb_headers

Headers = dict[int, bytes]
Write = Callable[[Path, Headers], None]


def ndb(headers: Headers, slot_pages: int = 1) -> bytes:
    """Return a `Packages.db`, with a free slot after each package, as a removed one leaves it."""
    slots, blobs = b"", b""
    for number, header in headers.items():
        padded = header + b"\0" * (-(16 + len(header) + 12) % 16)
        blob = struct.pack("<4sIII", b"BlbS", number, 1_700_000_000, len(header)) + padded
        blob += struct.pack("<II4s", zlib.adler32(blob), len(header), b"BlbE")
        start = slot_pages * 256 + len(blobs) // 16
        slots += struct.pack("<4sIII", b"Slot", number, start, len(blob) // 16)
        slots += struct.pack("<4sIII", b"Slot", 0, 0, 0)
        blobs += blob
    begin = struct.pack("<4sIIII12x", b"RpmP", 0, 7, slot_pages, max(headers, default=0) + 1)
    free = struct.pack("<4s12x", b"Slot")
    left = slot_pages * 256 - (len(begin) + len(slots)) // 16
    return begin + slots + free * left + blobs


def write_ndb(path: Path, headers: Headers) -> None:
    path.with_name("new").write_bytes(ndb(headers))
    path.with_name("new").rename(path)


def write_bdb(
    path: Path, headers: Headers, page: int = 4096, order: Literal["little", "big"] = "little"
) -> None:
    """Write a `Packages` with the record 0 of rpm, the next number to use."""
    numbers = {0: (max(headers, default=0) + 1).to_bytes(4, order)}
    lines = [
        f" {word.hex()}"
        for number, header in (numbers | headers).items()
        for word in (number.to_bytes(4, order), header)
    ]
    text = "\n".join(
        [
            "VERSION=3",
            "format=bytevalue",
            "type=hash",
            f"db_pagesize={page}",
            f"db_lorder={1234 if order == 'little' else 4321}",
            "HEADER=END",
            *lines,
            "DATA=END",
            "",
        ]
    )
    path.with_name("new").unlink(missing_ok=True)
    command: list[str | Path] = [tool("db5.3_load"), path.with_name("new")]
    subprocess.run(command, input=text, text=True, check=True)
    path.with_name("new").rename(path)


FORMATS = pytest.mark.parametrize(
    ("name", "write"),
    [
        pytest.param("Packages.db", write_ndb, id="ndb"),
        pytest.param("Packages", write_bdb, id="bdb"),
    ],
)


@pytest.fixture
def rpm(tmp_path: Path) -> Rpm:
    root = tmp_path / "host"
    root.mkdir()
    return Rpm(root)


def headers_of(rpm: Rpm) -> Headers:
    """Return the headers in the database of rpm."""
    with closing(sqlite3.connect(rpm.root / "var/lib/rpm/rpmdb.sqlite")) as database:
        return dict(database.execute("SELECT hnum, blob FROM Packages"))


def older_host(folder: Path, name: str, write: Write, headers: Headers) -> Path:
    """Make a root with an older database, and return the path of that."""
    database = folder / "older/var/lib/rpm" / name
    database.parent.mkdir(parents=True)
    write(database, headers)
    return database


@FORMATS
def test_older_databases_hold_the_same_as_sqlite(
    rpm: Rpm, tmp_path: Path, name: str, write: Write
) -> None:
    """Names, versions with their epoch, architectures and stamps; and nothing is left there."""
    rpm("-i", rpm.build("one", "1.0", epoch=3), rpm.build("two", "1.0"), rpm.build("gone", "1"))
    rpm("-e", "gone")
    database = older_host(tmp_path, name, write, headers_of(rpm))
    with open_tree(str(rpm.root)) as tree:
        wanted = reader.scan(tree, "var/lib/rpm", (), 0).packages
    with open_tree(str(tmp_path / "older")) as tree:
        scan = reader.scan(tree, "var/lib/rpm", (), 0)
    assert len(wanted) == 2
    assert set(scan.packages) == set(wanted)
    assert scan.time_ns == database.stat().st_mtime_ns
    assert os.listdir(database.parent) == [name]


@FORMATS
async def test_changes_are_emitted_after_the_transaction(
    rpm: Rpm, tmp_path: Path, name: str, write: Write
) -> None:
    """The database changes under the lock of rpm; events come when that is free, once each."""
    rpm("-i", rpm.build("one", "1.0"))
    database = older_host(tmp_path, name, write, headers_of(rpm))
    async with PackageRun(tmp_path / "older") as watched:
        with locked(database.with_name(".rpm.lock")):
            rpm("-U", rpm.build("one", "1.1"))
            rpm("-i", rpm.build("two", "2.0"))
            write(database, headers_of(rpm))
            await watched.pass_time(1.0)
            assert watched.summaries() == []
        assert await watched.expect_events(3) == [
            "removed rpm one 1.0-1 -> 1.1-1",
            "installed rpm one 1.1-1 <- 1.0-1",
            "installed rpm two 2.0-1",
        ]
        rpm("-e", "two")
        write(database, headers_of(rpm))
        assert (await watched.expect_events(4))[3:] == ["removed rpm two 2.0-1"]


@pytest.mark.parametrize("order", ["little", "big"])
@pytest.mark.parametrize("page", [512, 4096, 65536])
def test_many_headers_of_every_size_are_read_from_berkeley_db(
    tmp_path: Path, page: int, order: Literal["little", "big"]
) -> None:
    """In the page, or on pages of their own; of either byte order; in a hash of many pages."""
    sizes = [1, 100, 127, 128, 486, 487, 1000, 4070, 4071, 40_000, 200_000, *range(1, 3000, 17)]
    headers = {number: os.urandom(size) for number, size in enumerate(sizes, start=1)}
    write_bdb(tmp_path / "Packages", headers, page, order)
    assert dict(bdb_headers((tmp_path / "Packages").read_bytes())) == headers


def test_what_berkeley_db_has_deleted_and_changed_is_not_read(tmp_path: Path) -> None:
    """Pages that became free keep their old bytes."""
    write_bdb(tmp_path / "Packages", dict.fromkeys(range(1, 60), b"x" * 9000))
    text = "VERSION=3\nformat=bytevalue\ntype=hash\nHEADER=END\n"
    text += "".join(f" {n.to_bytes(4, 'little').hex()}\n {b'y'.hex()}\n" for n in range(1, 60))
    command: list[str | Path] = [tool("db5.3_load"), tmp_path / "Packages"]
    subprocess.run(command, input=f"{text}DATA=END\n", text=True, check=True)
    data = (tmp_path / "Packages").read_bytes()
    assert b"x" * 100 in data
    assert dict(bdb_headers(data)) == dict.fromkeys(range(1, 60), b"y")


def test_rpm_itself_reads_the_berkeley_db_that_these_tests_write(rpm: Rpm, tmp_path: Path) -> None:
    """So it is one that rpm may have made."""
    rpm("-i", rpm.build("one", "1.0"), rpm.build("two", "1.0"))
    database = older_host(tmp_path, "Packages", write_bdb, headers_of(rpm))
    command: list[str | Path] = [rpm.rpm, "--dbpath", database.parent]
    command += ["--define", "_db_backend bdb_ro", "-qa"]
    query = subprocess.run(command, capture_output=True, text=True, check=True)
    if "bdb_ro" in query.stderr:
        pytest.skip("needs an rpm with its reader of Berkeley DB")
    assert sorted(query.stdout.split()) == ["one-1.0-1.noarch", "two-1.0-1.noarch"]


def test_ndb_may_have_several_pages_of_slots() -> None:
    headers = {number: os.urandom(number * 7) for number in range(1, 301)}
    whole = ndb(headers, slot_pages=3)
    assert dict(ndb_headers(whole)) == headers
    for end in range(4090, 3 * 4096):
        with pytest.raises(ValueError, match="cut off"):
            list(ndb_headers(whole[:end]))


@FORMATS
def test_a_database_that_is_cut_off_or_damaged_is_unreadable(
    rpm: Rpm, tmp_path: Path, name: str, write: Write
) -> None:
    """Never one with fewer packages."""
    rpm("-i", rpm.build("one", "1.0"))
    database = older_host(tmp_path, name, write, headers_of(rpm))
    whole = database.read_bytes()
    with open_tree(str(tmp_path / "older")) as tree:
        for damaged in (b"", b"x" * len(whole), whole[:-1], whole[: len(whole) // 2], whole[:600]):
            database.write_bytes(damaged)
            with pytest.raises(UnreadableError, match="Packages"):
                reader.scan(tree, "var/lib/rpm", (), 0)


def test_pages_that_lead_in_a_circle_or_are_shared_are_damage(tmp_path: Path) -> None:
    """Else a small file could ask for endless work."""
    write_bdb(tmp_path / "Packages", {1: b"x" * 9000, 2: b"y" * 9000})
    data = (tmp_path / "Packages").read_bytes()
    chains = [at for at in range(0, len(data), 4096) if data[at + 25] == 7]
    assert len(chains) >= 4
    circle = bytearray(data)
    struct.pack_into("<I", circle, chains[1] + 16, chains[0] // 4096)
    with pytest.raises(ValueError, match="not its own"):
        list(bdb_headers(bytes(circle)))
    shared = ndb({1: b"x" * 5000, 2: b"y" * 5000})
    again = shared[:64] + shared[32:48] * 200 + shared[64 + 3200 :]
    with pytest.raises(ValueError, match="into another"):
        list(ndb_headers(again))


SMALL = {1: b"x" * 1100, 2: b"y" * 50, 3: b"z"}


@pytest.fixture(scope="module")
def small_bdb(tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("bdb") / "Packages"
    write_bdb(path, SMALL, page=512)
    return path.read_bytes()


def unbroken(headers: Callable[[bytes], Iterable[tuple[int, bytes]]], data: bytes) -> Headers:
    """Return the headers, which are no larger than the file, or none after a ValueError."""
    try:
        result = list(headers(data))
    except ValueError:
        return {}
    assert sum(len(header) for _, header in result) <= len(data)
    return dict(result)


def test_no_byte_and_no_end_breaks_the_reader_of_ndb() -> None:
    """Each byte damaged in turn; what is read all the same is what was there."""
    whole = ndb(SMALL)
    for at in range(len(whole)):
        for value in {0, 1, 2, 255} - {whole[at]}:
            damaged = whole[:at] + bytes([value]) + whole[at + 1 :]
            assert unbroken(ndb_headers, damaged).items() <= SMALL.items()
    for end in range(len(whole)):
        assert unbroken(ndb_headers, whole[:end]) == {}


def test_no_byte_and_no_end_breaks_the_reader_of_berkeley_db(small_bdb: bytes) -> None:
    """Each byte damaged in turn. It has no checksums: only what it is made of can be checked."""
    assert unbroken(bdb_headers, small_bdb) == SMALL
    for at in range(len(small_bdb)):
        byte = small_bdb[at]
        for value in {0, 1, 7, 13, 255, (byte + 1) % 256, (byte - 1) % 256} - {byte}:
            unbroken(bdb_headers, small_bdb[:at] + bytes([value]) + small_bdb[at + 1 :])
    for end in range(len(small_bdb)):
        assert unbroken(bdb_headers, small_bdb[:end]) == {}


@pytest.mark.parametrize("at", [24, 25, 26])
def test_a_berkeley_db_that_rpm_does_not_make_is_not_read(small_bdb: bytes, at: int) -> None:
    """Encrypted, no hash, with checksums in its pages."""
    with pytest.raises(ValueError, match="as rpm makes none"):
        list(bdb_headers(small_bdb[:at] + b"\1" + small_bdb[at + 1 :]))


def test_a_length_that_is_not_that_of_its_pages_is_damage(small_bdb: bytes) -> None:
    at = small_bdb.index(struct.pack("<I", len(SMALL[1])), 512)
    damaged = small_bdb[:at] + struct.pack("<I", len(SMALL[1]) + 1) + small_bdb[at + 4 :]
    with pytest.raises(ValueError, match="cut off"):
        list(bdb_headers(damaged))


def test_an_item_of_another_length_than_its_kind_is_damage(tmp_path: Path) -> None:
    """The item that names the pages of a header begins a byte earlier."""
    write_bdb(tmp_path / "Packages", {1: SMALL[1]}, page=512)
    data = bytearray((tmp_path / "Packages").read_bytes())
    item = data.index(struct.pack("<I", len(SMALL[1])), 512) - 8
    page = item - item % 512
    entry = data.index(struct.pack("<H", item % 512), page + 26)
    struct.pack_into("<H", data, entry, item % 512 - 1)
    data[item - 1] = data[item]
    with pytest.raises(ValueError, match="kept as rpm keeps none"):
        list(bdb_headers(bytes(data)))


@given(
    st.lists(st.tuples(st.integers(0, 20_000), st.binary(min_size=1, max_size=8)), max_size=6),
    st.none() | st.integers(0, 20_000),
)
def test_no_damage_breaks_a_reader(
    small_bdb: bytes, damage: list[tuple[int, bytes]], cut: int | None
) -> None:
    for headers, whole in ((ndb_headers, ndb(SMALL)), (bdb_headers, small_bdb)):
        data = bytearray(whole)
        for at, patch in damage:
            at %= len(data)
            data[at : at + len(patch)] = patch
        unbroken(headers, bytes(data[:cut]))


@given(st.binary(max_size=5000))
def test_no_bytes_at_all_break_a_reader(data: bytes) -> None:
    unbroken(ndb_headers, data)
    unbroken(bdb_headers, data)
