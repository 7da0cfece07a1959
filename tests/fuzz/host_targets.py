"""The inputs of the host and the lifecycle collector: logs, databases, manifests, cursors."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

from fuzz.bus_targets import runtime

from sematext_agent.host_collector.container_names import find_name_and_image
from sematext_agent.host_collector.file_tree import UnreadableError, open_tree
from sematext_agent.host_collector.kernel.cursor import decode_cursor
from sematext_agent.host_collector.kernel.log_reader import parse_record
from sematext_agent.host_collector.kernel.translate import KernelLogTranslator
from sematext_agent.host_collector.packages.diff import diff_inventories
from sematext_agent.host_collector.packages.inventory import (
    Package,
    PackageOrigin,
    RootDiff,
    ScanRoot,
)
from sematext_agent.host_collector.packages.inventory_store import InventoryStore, load_store
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.readers.rpm import package_of
from sematext_agent.host_collector.packages.translate import translate
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.lifecycle_collector import cloud
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.watch import watch as lifecycle
from sematext_agent.shared.bus import BucketEntry
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, decode, encode
from sematext_agent.shared.subjects import subject_of

_BEFORE = (Package("curl", "1.0", "amd64", 5), Package("six", "1.0"))


def _check_event(event: Event | None) -> None:
    if event is not None:
        subject_of(event)
        assert decode(encode(event)) == event


def _check_events(*batches: Iterable[Observation]) -> list[bytes]:
    """Check that every event can be published; return the cursors."""
    observations = [observation for batch in batches for observation in batch]
    for observation in observations:
        _check_event(observation.event)
    return [observation.cursor for observation in observations if observation.cursor is not None]


def kernel_log(data: bytes) -> None:
    """Read records of /dev/kmsg, here one a line."""
    translator = KernelLogTranslator("web-01", "boot", None, lambda: 1)
    records = []
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            records.append(parse_record(line, 0))
    _check_events(translator.start(), translator.finish_batch(), translator.translate(records))


def oom_cursor(data: bytes) -> None:
    """Resume from the stored position in the kernel's log."""
    translator = KernelLogTranslator("web-01", "boot", decode_cursor(data), lambda: 3)
    translator._audit_at = 0.0
    records = [parse_record(b"6,%d,5,-;hello" % number, 0) for number in (1, 2, 9)]
    for cursor in _check_events(
        translator.start(),
        translator.translate(records),
        translator.finish_batch(),
        translator.stop(),
    ):
        assert decode_cursor(cursor) is not None


def reads(kind: str, path: str, file: str) -> Callable[[bytes], None]:
    """Return a target: a scan root whose one file holds the data."""

    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder, path, file)
            where.parent.mkdir(parents=True)
            where.write_bytes(data)
            with open_tree(folder) as tree, contextlib.suppress(OSError, UnreadableError):
                READERS[kind].fingerprint(tree, path)
                scan = READERS[kind].scan(tree, path, _BEFORE, time.time_ns())
                root, origin = ScanRoot(kind, path), PackageOrigin("web-01", "deb")
                changes = diff_inventories(_BEFORE, scan, READERS[kind].installed_at)
                cursors = InventoryStore().put(root, scan.packages)
                _check_events(translate(RootDiff(root, origin, changes, cursors)))

    return target


def rpm_header(data: bytes) -> None:
    """Read one header of rpm, whichever database it was in."""
    with contextlib.suppress(ValueError):
        package_of(1, data)


def container_config(data: bytes) -> None:
    """Read the engine's own record of a container."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "c").mkdir()
        Path(folder, "c/config.v2.json").write_bytes(data)
        with open_tree(folder) as tree:
            find_name_and_image(tree, "c1", "c")


def _load(data: bytes, **under: bytes) -> InventoryStore:
    at = runtime(HostSettings())
    at.bus.get_entry = _by_key({"packages": data, **under})
    store = asyncio.run(load_store(at))
    for root in store.roots:
        store.put(root, (*store.packages(root), Package("new", "1")))
    store.put(ScanRoot("deb", "var/lib/dpkg"), _BEFORE)
    return store


def _by_key(stored: dict[str, bytes]) -> Any:
    async def get_entry(bucket: str, key: str) -> BucketEntry:
        return BucketEntry(stored.get(key.rpartition(".")[2]), 0)

    return get_entry


def package_index(data: bytes) -> None:
    """Load the stored index of the inventories."""
    _load(data)


def package_slot(data: bytes) -> None:
    """Load one stored inventory."""
    _load(b'{"slots":16,"settled":[]}', **{"packages-0": data})


def lifecycle_cursor(data: bytes) -> None:
    """Resume from the stored record of the run before."""

    async def start() -> None:
        at = runtime(LifecycleSettings())
        at.stopping.set()
        async for observation in lifecycle(at, data):
            _check_event(observation.event)

    asyncio.run(start())


def cloud_answer(data: bytes) -> None:
    """Read an answer from the address of the metadata service."""
    request, cloud._request = cloud._request, lambda *_, **__: data
    try:
        for kind in cloud._CLOUDS:
            cloud._try(kind, "http://cloud")
    finally:
        cloud._request = request


TARGETS = {
    "kernel_log": kernel_log,
    "oom_cursor": oom_cursor,
    "dpkg_status": reads("deb", "var/lib/dpkg", "status"),
    "dpkg_folder": reads("deb-folder", "var/lib/dpkg/status.d", "curl"),
    "rpm_sqlite": reads("rpm", "var/lib/rpm", "rpmdb.sqlite"),
    "rpm_ndb": reads("rpm", "var/lib/rpm", "Packages.db"),
    "rpm_bdb": reads("rpm", "var/lib/rpm", "Packages"),
    "rpm_header": rpm_header,
    "python_metadata": reads("python", "usr/lib/python3/dist-packages", "six-1.0.egg-info"),
    "node_manifest": reads("node", "usr/lib/node_modules", "npm/package.json"),
    "node_lock": reads("node-project", "app/node_modules", ".package-lock.json"),
    "container_config": container_config,
    "package_index": package_index,
    "package_slot": package_slot,
    "lifecycle_cursor": lifecycle_cursor,
    "cloud_answer": cloud_answer,
}
