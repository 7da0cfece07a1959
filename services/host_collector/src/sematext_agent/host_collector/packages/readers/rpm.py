"""The reader of rpm's database: SQLite (rpm 4.16 and later: RHEL 9, Fedora, Amazon 2023) or older.

Never opened in place: SQLite and librpm leave locks and files beside a live database, and readers
of rpm's older formats have damaged it (osquery#2623, #3178). The file and its write-ahead log are
copied, the copy is read, and a copy during which anything changed is thrown away. The older formats
are read without librpm and without Berkeley DB: see `rpm_backends`.
"""

from __future__ import annotations

import mmap
import os
import sqlite3
import stat
import struct
import tempfile
from collections.abc import Iterable
from contextlib import closing
from pathlib import Path

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.host_collector.packages.inventory import Package, RootScan
from sematext_agent.host_collector.packages.readers.rpm_backends import (
    Header,
    bdb_headers,
    ndb_headers,
)

DATABASE_BYTES_MAX = 1024 * 1024 * 1024
_COPY_BYTES = 1024 * 1024
_SQLITE = "rpmdb.sqlite"
_OLDER = {"Packages.db": ndb_headers, "Packages": bdb_headers}
_DATABASES = (_SQLITE, *_OLDER)
"""The files of the formats, the newest first: a converted database may leave its older file."""

# Tags and types of a header: rpm's documentation, "Package Format" and rpmtag.h.
_NAME, _VERSION, _RELEASE, _EPOCH = 1000, 1001, 1002, 1003
_INSTALL_TIME, _ARCHITECTURE = 1008, 1022
_TEXTS = frozenset((_NAME, _VERSION, _RELEASE, _ARCHITECTURE))
_NUMBERS = frozenset((_EPOCH, _INSTALL_TIME))
_INT32, _STRING, _STRING_ARRAY, _I18N_STRING = 4, 6, 8, 9
_COUNTS = struct.Struct(">II")
_ENTRY = struct.Struct(">IIII")
_NUMBER = struct.Struct(">I")


def fingerprint(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return numbers that change with the database; empty where there is none."""
    name = _find_database(tree, path)
    if name is None:
        return ()
    return tree.fingerprint(f"{path}/{name}") + tree.fingerprint(f"{path}/{name}-wal")


def _find_database(tree: FileTree, path: str) -> str | None:
    """Return the name of the database's file in the directory `path`."""
    for name in _DATABASES:
        status = tree.stat(f"{path}/{name}")
        # On installation media `Packages` is a directory.
        if status is not None and stat.S_ISREG(status.st_mode):
            return name
    return None


def scan(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages in the database of the directory `path`.

    Raises:
        OSError: the database cannot be read, or not be copied.
        UnreadableError: it changed while it was copied, or is damaged.
    """
    before_copy = fingerprint(tree, path)
    name = _find_database(tree, path) or _SQLITE
    status = tree.stat(f"{path}/{name}")
    with tempfile.TemporaryDirectory(prefix="rpmdb-") as folder:
        copy = Path(folder, name)
        _copy(tree, f"{path}/{name}", copy)
        if tree.fingerprint(f"{path}/{name}-wal"):
            _copy(tree, f"{path}/{name}-wal", Path(folder, f"{name}-wal"))
        if fingerprint(tree, path) != before_copy:
            raise UnreadableError(f"/{path}/{name} changed while it was copied")
        try:
            packages = _read_packages(copy)
        except sqlite3.Error as error:
            raise UnreadableError(f"/{path}/{name}: {error}") from error
        except ValueError as error:
            raise UnreadableError(f"/{path}/{name} is damaged: {error}") from error
    return RootScan(packages, status.st_mtime_ns if status else 0)


def _copy(tree: FileTree, path: str, target: Path) -> None:
    source = tree.open_file(path)
    try:
        if os.fstat(source).st_size > DATABASE_BYTES_MAX:
            raise UnreadableError(f"/{path} is larger than {DATABASE_BYTES_MAX} bytes")
        with target.open("wb") as copy:
            while os.sendfile(copy.fileno(), source, None, _COPY_BYTES):
                pass
    finally:
        os.close(source)


def _read_packages(database: Path) -> tuple[Package, ...]:
    if database.name == _SQLITE:
        with closing(sqlite3.connect(database)) as connection:
            return _describe(connection.execute("SELECT hnum, blob FROM Packages ORDER BY hnum"))
    with (
        database.open("rb") as file,
        mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data,
    ):
        return _describe(_OLDER[database.name](data))


def _describe(headers: Iterable[Header]) -> tuple[Package, ...]:
    packages = []
    for number, header in headers:
        if not isinstance(number, int) or not isinstance(header, bytes):
            raise ValueError("it has a row that is no header")  # SQLite keeps anything anywhere
        packages.append(package_of(number, header))
    return tuple(package for package in packages if package is not None)


def package_of(number: int, header: bytes) -> Package | None:
    """Return the package of a header; None for a signature's key, which rpm keeps as a package.

    Args:
        number: the header's number in its database, never used twice.
        header: without the magic that it has in a package file.

    Raises:
        ValueError: the header is damaged.
    """
    fields = _fields(header)
    name = fields.get(_NAME)
    if not isinstance(name, str) or not name:
        raise ValueError("it has no name")
    if name == "gpg-pubkey":
        return None
    version = f"{fields.get(_VERSION, '')}-{fields.get(_RELEASE, '')}"
    if _EPOCH in fields:
        version = f"{fields[_EPOCH]}:{version}"
    seconds = int(fields.get(_INSTALL_TIME, 0))
    # The number distinguishes installations in one second, the time those before and after a
    # rebuild of the database, which numbers anew.
    stamp = seconds << 32 | number & 0xFFFFFFFF
    architecture = str(fields.get(_ARCHITECTURE, ""))
    return Package(name, version, architecture, stamp)


def installed_at(stamp: int) -> int:
    """Return when the package with this stamp was installed, in nanoseconds since the epoch."""
    return (stamp >> 32) * 1_000_000_000


def _fields(header: bytes) -> dict[int, str | int]:
    """Return the fields of a header that matter here; every bound is checked."""
    if len(header) < _COUNTS.size:
        raise ValueError("it is cut off")
    entries, size = _COUNTS.unpack_from(header)
    store = _COUNTS.size + entries * _ENTRY.size
    if store + size > len(header):
        raise ValueError("it is cut off")
    fields: dict[int, str | int] = {}
    for tag, kind, offset, _ in _ENTRY.iter_unpack(header[_COUNTS.size : store]):
        start = store + offset
        if tag in _TEXTS and kind in (_STRING, _STRING_ARRAY, _I18N_STRING):
            end = header.find(b"\0", start)
            if offset >= size or end < 0:
                raise ValueError(f"its field {tag} leads out of it")
            fields[tag] = header[start:end].decode(errors="replace")
        elif tag in _NUMBERS and kind == _INT32:
            if offset + _NUMBER.size > size:
                raise ValueError(f"its field {tag} leads out of it")
            fields[tag] = _NUMBER.unpack_from(header, start)[0]
    return fields
