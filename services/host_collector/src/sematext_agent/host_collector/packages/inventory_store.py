"""The inventory of every scan root at its last scan that is stored: the cursors of this source.

Each root's inventory is a cursor of its own, compressed, in a numbered slot of the bucket. A slot
names the root it is of, and is used again after its root is forgotten, so that the bucket never
holds more than the most roots this host had at once, however many containers come and go.

A large inventory takes several slots. It never overwrites the one before: that stays whole until
all of the new one is stored, and the serial number shows which of the two is newer.
"""

from __future__ import annotations

import logging
import zlib
from collections import defaultdict, deque
from typing import Annotated

import msgspec

from sematext_agent.host_collector.packages.inventory import KINDS, Package, ScanRoot
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import read_cursor
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

SLOT_BYTES_MAX = 400_000
"""The most that one slot holds. The broker takes 1 MB in a message by default."""
INDEX_NAME = "packages"
"""The name of the cursor that holds the index of the slots."""
_SLOTS_STEP = 16
SLOTS_MAX = 16_384
"""Far more than a host can need: an index with more is damaged."""


class _InventorySlot(msgspec.Struct, frozen=True, array_like=True):
    """One piece of a root's inventory, as it is stored."""

    root: ScanRoot
    serial: Annotated[int, msgspec.Meta(ge=0, le=2**62)]
    piece: int
    pieces: int
    packed: bytes


class StoreIndex(msgspec.Struct, frozen=True):
    """The number of slots, which has to be known before they can be read, and the baselines."""

    slots: Annotated[int, msgspec.Meta(ge=0, le=SLOTS_MAX)] = 0
    """An upper bound of the slots' numbers; some may be empty."""
    baselines: tuple[str, ...] = msgspec.field(default=(), name="settled")
    """The file systems whose baseline is stored: ids of containers, empty for the host."""


class _StoredInventory(msgspec.Struct, frozen=True):
    """The inventory of a root, packed, and the slots it is stored in."""

    serial: int
    slots: tuple[int, ...]
    packed: bytes


EMPTY_INDEX = StoreIndex()
NamedCursor = tuple[str, bytes]
"""The name of a cursor, and the cursor."""

_packages = msgspec.msgpack.Decoder(tuple[Package, ...])
_slot = msgspec.msgpack.Decoder(_InventorySlot)
_index = msgspec.json.Decoder(StoreIndex)
_encode = msgspec.msgpack.Encoder().encode


class InventoryStore:
    """The inventories of all roots. Made by `load_store`."""

    def __init__(self, index: StoreIndex = EMPTY_INDEX) -> None:
        """Begin without an inventory, with the slots of the stored `index`."""
        self._inventories: dict[ScanRoot, _StoredInventory] = {}
        self._slots = index.slots
        self._free = deque[int]()
        self._serial = 0
        self.baselines = set(index.baselines)
        """The file systems whose baseline is stored; a root that appears there began empty."""

    def __contains__(self, root: ScanRoot) -> bool:
        return root in self._inventories

    @property
    def roots(self) -> list[ScanRoot]:
        """The roots that have an inventory."""
        return list(self._inventories)

    def packages(self, root: ScanRoot) -> tuple[Package, ...]:
        """Return the inventory of the root; nothing where it has none."""
        inventory = self._inventories.get(root)
        return _packages.decode(zlib.decompress(inventory.packed)) if inventory else ()

    def put(self, root: ScanRoot, packages: tuple[Package, ...]) -> list[NamedCursor]:
        """Replace the inventory of the root; return the cursors that have to be stored."""
        packed = zlib.compress(_encode(packages))
        pieces = -(-len(packed) // SLOT_BYTES_MAX)
        before = self._inventories.get(root)
        index: list[NamedCursor] = []
        slots = before.slots if before else ()
        if not len(slots) == pieces == 1:
            if len(self._free) < pieces:
                index = [self._add_slots(pieces)]
            slots = tuple(self._free.popleft() for _ in range(pieces))
            self._free.extend(before.slots if before else ())
        self._serial += 1
        self._inventories[root] = _StoredInventory(self._serial, slots, packed)
        return index + self.cursors(root)

    def cursors(self, root: ScanRoot) -> list[NamedCursor]:
        """Return the cursors that hold the inventory of the root."""
        inventory = self._inventories[root]
        pieces = len(inventory.slots)
        return [
            (
                _slot_name(slot),
                _encode(_InventorySlot(root, inventory.serial, piece, pieces, packed)),
            )
            for piece, slot in enumerate(inventory.slots)
            if (packed := inventory.packed[piece * SLOT_BYTES_MAX : (piece + 1) * SLOT_BYTES_MAX])
        ]

    def forget(self, root: ScanRoot) -> None:
        """Free the slots of the root."""
        if (inventory := self._inventories.pop(root, None)) is not None:
            self._free.extend(inventory.slots)

    def index(self) -> NamedCursor:
        """Return the cursor that holds the number of slots and the baselines."""
        index = StoreIndex(self._slots, tuple(sorted(self.baselines)))
        return INDEX_NAME, msgspec.json.encode(index)

    def _add_slots(self, wanted: int) -> NamedCursor:
        """Add slots, some in advance, so that the index is stored well before they are used."""
        count = self._slots + -(-wanted // _SLOTS_STEP) * _SLOTS_STEP
        self._free.extend(range(self._slots, count))
        self._slots = count
        return self.index()

    def restore(self, slots: dict[int, bytes]) -> None:
        """Use the stored `slots`, by their numbers: of each root the newest whole inventory."""
        stored: dict[tuple[ScanRoot, int], dict[int, tuple[int, _InventorySlot]]]
        stored = defaultdict(dict)
        for number, content in slots.items():
            try:
                slot = _slot.decode(content)
            except DECODE_ERRORS as error:
                log.warning("stored cursor %s ignored: %s", _slot_name(number), error)
                continue
            stored[slot.root, slot.serial][slot.piece] = number, slot
            self._serial = max(self._serial, slot.serial)
        for (root, serial), pieces in sorted(stored.items(), key=lambda item: item[0][1]):
            whole = [pieces[piece] for piece in sorted(pieces)]
            packed = b"".join(slot.packed for _, slot in whole)
            if len(whole) == whole[0][1].pieces and _is_readable(root, packed):
                numbers = tuple(number for number, _ in whole)
                self._inventories[root] = _StoredInventory(serial, numbers, packed)
        used = {slot for inventory in self._inventories.values() for slot in inventory.slots}
        self._free = deque(number for number in range(self._slots) if number not in used)


def _is_readable(root: ScanRoot, packed: bytes) -> bool:
    """Return whether an inventory is whole, and of a kind of root that this version reads."""
    try:
        _packages.decode(zlib.decompress(packed))
    except (zlib.error, *DECODE_ERRORS) as error:
        log.warning("stored inventory of /%s ignored: %s", root.path, error)
        return False
    return root.kind in KINDS


def _slot_name(slot: int) -> str:
    return f"packages-{slot}"


async def load_store(runtime: Runtime[HostSettings]) -> InventoryStore:
    """Return the inventories that are stored for this host."""
    content = await read_cursor(runtime, INDEX_NAME)
    try:
        index = _index.decode(content) if content else EMPTY_INDEX
    except DECODE_ERRORS as error:
        log.warning("stored cursor %s ignored: %s", INDEX_NAME, error)
        index = EMPTY_INDEX
    store = InventoryStore(index)
    stored = {n: await read_cursor(runtime, _slot_name(n)) for n in range(index.slots)}
    store.restore({number: slot for number, slot in stored.items() if slot})
    return store


async def are_stored(runtime: Runtime[HostSettings], cursors: list[NamedCursor]) -> bool:
    """Return whether all these cursors are in the bucket as they are here."""
    for name, cursor in cursors:
        if await read_cursor(runtime, name) != cursor:
            return False
    return True
