"""What was installed in every root at the last look that is safe: the cursors of this collector.

Each root's inventory is a cursor of its own, compressed, in a numbered slot of the bucket. A slot
says itself which root it is of, and is used again after its root is forgotten, so that the bucket
never holds more than the most roots this host had at once, however many containers come and go.

A large inventory takes several slots. It never overwrites the one before: that stays whole until
all of the new one is stored, and the serial number tells which of the two is newer.
"""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict, deque
from typing import Annotated

import msgspec

from sematext_agent.host_collector.packages.inventory import Package, Root
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import read_cursor
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

SLOT_BYTES_MAX = 400_000
"""The most that one slot holds. The broker takes 1 MB in a message by default."""
INDEX = "packages"
"""The part of the cursor that says how many slots there are."""
_SLOTS_STEP = 16
SLOTS_MAX = 16_384
"""Far more than a host can need: an index that says so is damaged."""


class _Slot(msgspec.Struct, frozen=True, array_like=True):
    """One piece of a root's inventory, as it is stored."""

    root: Root
    serial: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    piece: int
    pieces: int
    packed: bytes


class _Index(msgspec.Struct, frozen=True):
    """What has to be known before the slots can be read."""

    slots: Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)] = 0
    """How many there are at most; some may be empty."""
    settled: tuple[str, ...] = ()
    """The trees all of whose roots had been safe once: ids of containers, empty for the host."""


class _Kept(msgspec.Struct, frozen=True):
    """The inventory of a root, packed, and where it is stored."""

    serial: int
    slots: tuple[int, ...]
    packed: bytes


Cursor = tuple[str, bytes]
"""The part of a cursor, and the cursor."""

_packages = msgspec.msgpack.Decoder(tuple[Package, ...])
_slot = msgspec.msgpack.Decoder(_Slot)
_index = msgspec.json.Decoder(_Index)
_encode = msgspec.msgpack.Encoder().encode


class Slots:
    """The inventories of all roots. Made by `load`."""

    def __init__(self, index: _Index) -> None:
        self._kept: dict[Root, _Kept] = {}
        self._count = index.slots
        self._free = deque[int]()
        self._serial = 0
        self.settled = set(index.settled)
        """The trees whose new roots began empty, because all that was there before is known."""

    def __contains__(self, root: Root) -> bool:
        return root in self._kept

    @property
    def roots(self) -> list[Root]:
        """The roots of which an inventory is kept."""
        return list(self._kept)

    def packages(self, root: Root) -> tuple[Package, ...]:
        """What was installed in the root; nothing where no inventory is kept."""
        kept = self._kept.get(root)
        return _packages.decode(zlib.decompress(kept.packed)) if kept else ()

    def keep(self, root: Root, packages: tuple[Package, ...]) -> list[Cursor]:
        """Takes the inventory; returns the cursors that make it safe."""
        packed = zlib.compress(_encode(packages))
        pieces = -(-len(packed) // SLOT_BYTES_MAX)
        before = self._kept.get(root)
        grown: list[Cursor] = []
        slots = before.slots if before else ()
        if not len(slots) == pieces == 1:
            if len(self._free) < pieces:
                grown = [self._grow(pieces)]
            slots = tuple(self._free.popleft() for _ in range(pieces))
            self._free.extend(before.slots if before else ())
        self._serial += 1
        self._kept[root] = _Kept(self._serial, slots, packed)
        return grown + self.cursors(root)

    def cursors(self, root: Root) -> list[Cursor]:
        """What the slots of the root hold once they are safe."""
        kept = self._kept[root]
        return [
            (_part(slot), _encode(_Slot(root, kept.serial, piece, len(kept.slots), packed)))
            for piece, slot in enumerate(kept.slots)
            if (packed := kept.packed[piece * SLOT_BYTES_MAX : (piece + 1) * SLOT_BYTES_MAX])
        ]

    def forget(self, root: Root) -> None:
        """Gives the slots of the root to others."""
        if (kept := self._kept.pop(root, None)) is not None:
            self._free.extend(kept.slots)

    def index(self) -> Cursor:
        """The cursor that says which slots there are, and which trees are settled."""
        index = _Index(self._count, tuple(sorted(self.settled)))
        return INDEX, msgspec.json.encode(index)

    def _grow(self, wanted: int) -> Cursor:
        """Makes more slots, some in advance, so that the index is safe well before they are."""
        count = self._count + -(-wanted // _SLOTS_STEP) * _SLOTS_STEP
        self._free.extend(range(self._count, count))
        self._count = count
        return self.index()

    def restore(self, slots: dict[int, bytes]) -> None:
        """Takes what was stored: of each root the newest inventory that is whole."""
        stored: dict[tuple[Root, int], dict[int, tuple[int, _Slot]]] = defaultdict(dict)
        for number, data in slots.items():
            try:
                slot = _slot.decode(data)
            except DECODE_ERRORS as error:
                log.warning("cannot use the cursor %s: %s", _part(number), error)
                continue
            stored[slot.root, slot.serial][slot.piece] = number, slot
            self._serial = max(self._serial, slot.serial)
        for (root, serial), pieces in sorted(stored.items(), key=lambda item: item[0][1]):
            whole = [pieces[piece] for piece in sorted(pieces)]
            packed = b"".join(slot.packed for _, slot in whole)
            if len(whole) == whole[0][1].pieces and _can_be_read(root, packed):
                numbers = tuple(number for number, _ in whole)
                self._kept[root] = _Kept(serial, numbers, packed)
        used = {number for kept in self._kept.values() for number in kept.slots}
        self._free = deque(number for number in range(self._count) if number not in used)


def _can_be_read(root: Root, packed: bytes) -> bool:
    """Whether an inventory is whole, and of a kind of root that this version reads."""
    try:
        _packages.decode(zlib.decompress(packed))
    except (zlib.error, *DECODE_ERRORS) as error:
        log.warning("cannot use the inventory of /%s: %s", root.path, error)
        return False
    return root.kind in READERS


def _part(slot: int) -> str:
    return f"packages-{slot}"


async def load(runtime: Runtime[HostSettings]) -> Slots:
    """The inventories that are stored for this host."""
    data = await read_cursor(runtime, INDEX)
    try:
        index = _index.decode(data) if data else _Index()
    except DECODE_ERRORS as error:
        log.warning("cannot use the cursor %s: %s", INDEX, error)
        index = _Index()
    slots = Slots(index)
    stored = {n: await read_cursor(runtime, _part(n)) for n in range(index.slots)}
    slots.restore({number: data for number, data in stored.items() if data})
    return slots


async def are_safe(runtime: Runtime[HostSettings], cursors: list[Cursor]) -> bool:
    """Whether all these cursors are stored as they are."""
    for part, cursor in cursors:
        if await read_cursor(runtime, part) != cursor:
            return False
    return True
