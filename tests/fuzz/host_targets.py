"""What the host collector and the lifecycle collector read: logs, databases, manifests, cursors."""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fuzz.bus_targets import runtime

from sematext_agent.host_collector import oom
from sematext_agent.host_collector.kmsg import parse
from sematext_agent.host_collector.oom_follower import Follower
from sematext_agent.host_collector.packages import inventory, slots
from sematext_agent.host_collector.packages.containers import name_and_image
from sematext_agent.host_collector.packages.inventory import Origin, Package, Root
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.rpm import package_of
from sematext_agent.host_collector.packages.tree import Unreadable, tree_at
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.lifecycle_collector import cloud
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.watch import watch as lifecycle
from sematext_agent.shared.bus import BucketEntry
from sematext_agent.shared.events import Event, decode, encode
from sematext_agent.shared.subjects import subject_of

_BEFORE = (Package("curl", "1.0", "amd64", 5), Package("six", "1.0"))


def _is_tellable(event: Event | None) -> None:
    if event is not None:
        subject_of(event)
        assert decode(encode(event)) == event


def kernel_log(data: bytes) -> None:
    """Records of /dev/kmsg, here one a line."""
    follower = Follower("web-01", "boot", None, lambda: 1)
    records = []
    for line in data.split(b"\n"):
        with contextlib.suppress(ValueError):
            records.append(parse(line, 0))
    for observed in (*follower.begin(), *follower.drained(), *follower.take(records)):
        _is_tellable(observed.event)


def oom_cursor(data: bytes) -> None:
    """The stored place in the kernel's log."""
    follower = Follower("web-01", "boot", oom._cursor(data), lambda: 3)
    follower._audit_due = 0.0
    records = [parse(b"6,%d,5,-;hello" % number, 0) for number in (1, 2, 9)]
    for observed in (
        *follower.begin(),
        *follower.take(records),
        *follower.drained(),
        *follower.end(),
    ):
        _is_tellable(observed.event)
        if observed.cursor is not None:
            assert oom._cursor(observed.cursor) is not None


def reads(kind: str, path: str, file: str) -> Callable[[bytes], None]:
    """A root of packages whose one file holds whatever it may."""

    def target(data: bytes) -> None:
        with tempfile.TemporaryDirectory() as folder:
            where = Path(folder, path, file)
            where.parent.mkdir(parents=True)
            where.write_bytes(data)
            with tree_at(folder) as tree, contextlib.suppress(OSError, Unreadable):
                READERS[kind].mark(tree, path)
                look = READERS[kind].read(tree, path, _BEFORE)
                root, origin = Root(kind, path), Origin("web-01", "deb")
                found = inventory.changes(_BEFORE, look, READERS[kind].installed_at)
                for event in inventory.events(root, origin, found):
                    _is_tellable(event)
                slots.Slots(slots._Index()).keep(root, look.packages)

    return target


def rpm_header(data: bytes) -> None:
    """One header of rpm, whichever database it was in."""
    with contextlib.suppress(ValueError):
        package_of(1, data)


def container_config(data: bytes) -> None:
    """The engine's own record of a container."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "c").mkdir()
        Path(folder, "c/config.v2.json").write_bytes(data)
        with tree_at(folder) as tree:
            name_and_image(tree, "c1", "c")


def _load(data: bytes, **under: bytes) -> slots.Slots:
    at = runtime(HostSettings())
    at.bus.get_entry = _by_key({"packages": data, **under})
    known = asyncio.run(slots.load(at))
    for root in known.roots:
        known.keep(root, (*known.packages(root), Package("new", "1")))
    known.keep(Root("deb", "var/lib/dpkg"), _BEFORE)
    return known


def _by_key(stored: dict[str, bytes]) -> Any:
    async def get_entry(bucket: str, key: str) -> BucketEntry:
        return BucketEntry(stored.get(key.rpartition(".")[2]), 0)

    return get_entry


def package_index(data: bytes) -> None:
    """The stored list of the inventories."""
    _load(data)


def package_slot(data: bytes) -> None:
    """One stored inventory."""
    _load(b'{"slots":16,"settled":[]}', **{"packages-0": data})


def lifecycle_cursor(data: bytes) -> None:
    """The stored record of the run before."""

    async def start() -> None:
        at = runtime(LifecycleSettings())
        at.stopping.set()
        async for observed in lifecycle(at, data):
            _is_tellable(observed.event)

    asyncio.run(start())


def cloud_answer(data: bytes) -> None:
    """What something on the metadata service's address answers."""
    asked, cloud._request = cloud._request, lambda *_, **__: data
    try:
        for kind in cloud._CLOUDS:
            cloud._try(kind, "http://cloud")
    finally:
        cloud._request = asked


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
