"""Parsers of rpm's older databases: NDB (SUSE) and Berkeley DB (RHEL 6 to 8, Amazon Linux 2).

Only the headers of the packages are read, from the copy of a file that `rpm` makes, and every bound
is checked: a container may put anything there. No part of a file can make another be read twice,
so a small file cannot cause much work. Both functions yield the number and the header of each
package and raise ValueError where the file is damaged, also after the first packages.

The formats: rpm's lib/backend/ndb/rpmpkg.c; db_page.h and hash.h of Berkeley DB 4.3 to 5.3.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from mmap import mmap

Header = tuple[int, bytes]
"""The number of a package in its database, and its header without the magic of a package file."""

_NDB_START = struct.Struct("<4sIII")  # magic, version, generation, pages of slots
_NDB_SLOT = struct.Struct("<4sIII")  # magic, number, first block, blocks
_NDB_HEAD = struct.Struct("<4sIII")  # magic, number, generation, length
_NDB_TAIL = struct.Struct("<II4s")  # Adler-32 of all before it, length, magic
_NDB_PAGE, _NDB_BLOCK = 4096, 16
_NDB_SLOTS_AT = 32

_BDB_MAGIC = 0x061561
_BDB_META_BYTES = 512
_BDB_PAGE_BYTES = frozenset(512 << power for power in range(8))
_HASH_UNSORTED, _OVERFLOW, _HASH_META, _HASH = 2, 7, 8, 13
_KEYDATA, _OFFPAGE = 1, 3


def ndb_headers(data: bytes | mmap) -> Iterator[Header]:
    """Yield the headers in a `Packages.db`, in the order of its slots.

    Raises:
        ValueError: it is damaged.
    """
    if len(data) < _NDB_PAGE:
        raise ValueError("it is cut off")
    magic, version, _, pages = _NDB_START.unpack_from(data)
    if magic != b"RpmP" or version != 0:
        raise ValueError("it is no NDB database of version 0")
    first = pages * (_NDB_PAGE // _NDB_BLOCK)
    blocks = len(data) // _NDB_BLOCK
    if first > blocks:
        raise ValueError("it is cut off")
    left = blocks - first
    slots = data[_NDB_SLOTS_AT : pages * _NDB_PAGE]
    for magic, number, start, count in _NDB_SLOT.iter_unpack(slots):
        if magic != b"Slot":
            raise ValueError("a slot has no magic")
        if start == 0:
            continue
        left -= count
        if start < first or start + count > blocks or left < 0:
            raise ValueError(f"the slot of package {number} leads out of it, or into another")
        blob = data[start * _NDB_BLOCK : (start + count) * _NDB_BLOCK]
        yield number, _ndb_header(number, blob)


def _ndb_header(number: int, blob: bytes) -> bytes:
    """Return the header in the blocks of one package: a head, the header, zeros, a tail."""
    tail = len(blob) - _NDB_TAIL.size
    if tail < _NDB_HEAD.size:
        raise ValueError(f"package {number} is cut off")
    magic, blob_number, _, size = _NDB_HEAD.unpack_from(blob)
    checksum, size_again, end = _NDB_TAIL.unpack_from(blob, tail)
    if (
        (magic, blob_number, end) != (b"BlbS", number, b"BlbE")
        or not size == size_again <= tail - _NDB_HEAD.size
        or checksum != zlib.adler32(memoryview(blob)[:tail])
    ):
        raise ValueError(f"package {number} is damaged")
    return blob[_NDB_HEAD.size : _NDB_HEAD.size + size]


def bdb_headers(data: bytes | mmap) -> Iterator[Header]:
    """Yield the headers in a `Packages` that is a Berkeley DB hash, by page.

    Raises:
        ValueError: it is damaged.
    """
    file = _BerkeleyDb(data)
    for page in range(1, file.pages):
        if file.kind(page) in (_HASH, _HASH_UNSORTED):
            yield from file.headers(page)


class _BerkeleyDb:
    """A Berkeley DB hash of either byte order, which is that of the machine that made it."""

    def __init__(self, data: bytes | mmap) -> None:
        if len(data) < _BDB_META_BYTES:
            raise ValueError("it is cut off")
        magic = data[12:16]
        if magic not in (_BDB_MAGIC.to_bytes(4, "little"), _BDB_MAGIC.to_bytes(4, "big")):
            raise ValueError("it is no Berkeley DB hash")
        order = ">" if magic[0] == 0 else "<"
        self._data = data
        self._word = struct.Struct(f"{order}I")
        self._page = struct.Struct(f"{order}16xIHHBB")  # next, entries, used, level, kind
        self._offset = f"{order}%dH"
        self._off_page = struct.Struct(f"{order}4xII")  # first page, length
        self._size: int = self._word.unpack_from(data, 20)[0]
        encryption, kind, flags = data[24], data[25], data[26]
        if kind != _HASH_META or self._size not in _BDB_PAGE_BYTES or encryption or flags:
            raise ValueError("it is a Berkeley DB hash as rpm makes none")
        self.pages: int = self._word.unpack_from(data, 32)[0] + 1
        if self.pages * self._size > len(data):
            raise ValueError("it is cut off")
        self._pages_read: set[int] = set()
        """The overflow pages that were read: each belongs to one header."""

    def kind(self, page: int) -> int:
        """Return the kind of a page."""
        return self._data[page * self._size + self._page.size - 1]

    def headers(self, number: int) -> Iterator[Header]:
        """Yield the headers that a page of the hash holds or refers to; its items are pairs."""
        page = self._data[number * self._size : (number + 1) * self._size]
        _, entries, _, _, _ = self._page.unpack_from(page)
        items = self._page.size + 2 * entries
        if entries % 2 or items > len(page):
            raise ValueError(f"page {number} is damaged")
        starts = struct.unpack_from(self._offset % entries, page, self._page.size)
        ends = (len(page), *starts)  # pages are filled from their end
        if any(not items <= start < end for start, end in zip(starts, ends, strict=False)):
            raise ValueError(f"an item leads out of page {number}")
        pairs = [page[start:end] for start, end in zip(starts, ends, strict=False)]
        for key, value in zip(pairs[::2], pairs[1::2], strict=True):
            if key[0] != _KEYDATA or len(key) != 1 + self._word.size:
                raise ValueError(f"page {number} has a key that is no number")
            package: int = self._word.unpack_from(key, 1)[0]
            # Under 0 rpm keeps the next number to use.
            if package != 0:
                yield package, self._value(package, value)

    def _value(self, package: int, item: bytes) -> bytes:
        if item[0] == _KEYDATA:
            return item[1:]
        if item[0] != _OFFPAGE or len(item) != self._off_page.size:
            raise ValueError(f"package {package} is kept as rpm keeps none")
        page, size = self._off_page.unpack(item)
        parts: list[bytes] = []
        while page:
            if page in self._pages_read or page >= self.pages or self.kind(page) != _OVERFLOW:
                raise ValueError(f"package {package} leads to a page that is not its own")
            self._pages_read.add(page)
            whole = self._data[page * self._size : (page + 1) * self._size]
            page, _, used, _, _ = self._page.unpack_from(whole)
            parts.append(whole[self._page.size : self._page.size + used])
        header = b"".join(parts)
        if len(header) != size:
            raise ValueError(f"package {package} is cut off")
        return header
