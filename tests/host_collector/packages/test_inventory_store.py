"""The stored inventories: small, whole or not there, and no more of them than roots."""

from __future__ import annotations

import asyncio
import random
from typing import Any

import pytest
from package_run import MemoryBucket

from sematext_agent.host_collector.packages import inventory_store as module
from sematext_agent.host_collector.packages.inventory import Package, ScanRoot
from sematext_agent.host_collector.packages.inventory_store import (
    InventoryStore,
    NamedCursor,
    load_store,
)
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

ROOT = ScanRoot("deb", "var/lib/dpkg")


def _packages(count: int, seed: int = 0) -> tuple[Package, ...]:
    """Return packages that compress as badly as real ones."""
    chance = random.Random(seed)
    word = [chance.randbytes(3).hex() for _ in range(4000)]
    return tuple(
        Package(
            f"lib{chance.choice(word)}-{chance.choice(word)}{n}",
            f"{n % 7}.{chance.random():.6f}",
            "amd64",
            chance.getrandbits(60),
        )
        for n in range(count)
    )


class StoringBucket(MemoryBucket):
    """The bucket, and what the collector stores in it."""

    def store(self, cursors: list[NamedCursor]) -> None:
        for name, cursor in cursors:
            self.values[f"host.web-01.{name}"] = cursor

    async def load(self) -> InventoryStore:
        """Return the inventories, as the next start finds them."""
        wanted = HostSettings(hostname_alias="web-01")
        bus: Any = self
        return await load_store(Runtime(wanted, Health("host", "web-01"), bus, asyncio.Event()))


async def test_a_hundred_thousand_packages_come_back_and_no_slot_is_too_large() -> None:
    bucket, packages = StoringBucket(), _packages(100_000)
    store = await bucket.load()
    cursors = store.put(ROOT, packages)
    bucket.store(cursors)
    assert max(len(cursor) for _, cursor in cursors) < 500_000
    assert (await bucket.load()).packages(ROOT) == packages


async def test_a_large_inventory_that_is_stored_in_part_leaves_the_one_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Killed between two of its slots, in whichever order they are stored."""
    monkeypatch.setattr(module, "SLOT_BYTES_MAX", 2000)
    bucket, before, after = StoringBucket(), _packages(300), _packages(300, seed=1)
    store = await bucket.load()
    bucket.store(store.put(ROOT, before))
    cursors = store.put(ROOT, after)
    assert len(cursors) > 3
    for cursor in reversed(cursors[1:]):
        bucket.store([cursor])
        assert (await bucket.load()).packages(ROOT) == before
    bucket.store(cursors[:1])
    restarted = await bucket.load()
    assert restarted.packages(ROOT) == after
    # From there it goes on, in one slot or in many.
    for packages in (_packages(2), before, _packages(3)):
        bucket.store(restarted.put(ROOT, packages))
        assert (await bucket.load()).packages(ROOT) == packages
    used = len(bucket.values)
    for seed in range(50):
        bucket.store(restarted.put(ROOT, _packages(300 - seed % 2 * 290, seed)))
    assert len(bucket.values) <= 2 * used


async def test_containers_that_come_and_go_do_not_fill_the_bucket() -> None:
    bucket, store = StoringBucket(), await StoringBucket().load()
    for number in range(500):
        root = ScanRoot("deb", "var/lib/dpkg", f"{number:064x}")
        bucket.store(store.put(root, _packages(20, number)))
        if number >= 5:
            store.forget(ScanRoot("deb", "var/lib/dpkg", f"{number - 5:064x}"))
    assert len(bucket.values) <= 17


async def test_what_a_forgotten_root_left_in_its_slot_never_wins() -> None:
    """A root that is forgotten and found again has a newer inventory elsewhere."""
    bucket, store = StoringBucket(), await StoringBucket().load()
    for seed in range(5):
        bucket.store(store.put(ROOT, _packages(3, seed)))
    store.forget(ROOT)
    bucket.store(store.put(ROOT, _packages(3, 99)))
    assert (await bucket.load()).packages(ROOT) == _packages(3, 99)


async def test_a_cursor_that_cannot_be_decoded_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    bucket = StoringBucket()
    bucket.store((await bucket.load()).put(ROOT, _packages(3)))
    bucket.values["host.web-01.packages-3"] = b"\xc1"
    assert (await bucket.load()).packages(ROOT) == _packages(3)
    assert "stored cursor packages-3 ignored" in caplog.text
    bucket.values["host.web-01.packages"] = b"{"
    assert (await bucket.load()).roots == []
