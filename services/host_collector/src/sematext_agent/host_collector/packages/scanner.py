"""The scanner of every root of the host and of the running containers.

One round is plain, blocking work: list new processes, search for roots where something new runs or
appeared, scan the roots that may have changed.
"""

from __future__ import annotations

import functools
import logging
import os
from contextlib import AbstractContextManager
from errno import EACCES, EPERM

from sematext_agent.host_collector.container_names import find_name_and_image
from sematext_agent.host_collector.file_tree import FileTree, ForbiddenError, UnreadableError
from sematext_agent.host_collector.packages.file_systems import (
    ContainerEndedError,
    list_processes,
    open_file_system,
)
from sematext_agent.host_collector.packages.inventory import (
    PackageOrigin,
    RootDiff,
    ScanRoot,
    manager_of,
)
from sematext_agent.host_collector.packages.inventory_store import InventoryStore
from sematext_agent.host_collector.packages.processes import HOST
from sematext_agent.host_collector.packages.readers import READERS
from sematext_agent.host_collector.packages.scan_patterns import ScanPattern
from sematext_agent.host_collector.packages.scan_roots import find_parents, find_scan_roots
from sematext_agent.host_collector.packages.search_schedule import SearchSchedule
from sematext_agent.host_collector.packages.tracked_root import QUIET_SECONDS, TrackedRoot
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock

log = logging.getLogger(__name__)

ROUND_SECONDS = 4.0
"""The longest pause between two rounds; a root of the host is scanned as often, although the kernel
notifies its changes."""
UNWATCHED_SECONDS = 1.0
"""Interval of the scans of a root that the kernel does not watch."""
CONTAINER_SECONDS = 30.0
"""Interval of the scans of a root in a container that the kernel watches."""
CHANGING_SECONDS = 0.15
"""The shortest pause between two rounds, while a root changes."""
ROOTS_MAX = 2000
MISSING_ROOTS_MAX = 128
"""Missing roots that are remembered, should they come back; the longest missing go first."""
_WARNINGS_MAX = 1000


class PackageScanner:
    """All the scan roots, and what changes in them."""

    def __init__(
        self,
        settings: HostSettings,
        store: InventoryStore,
        watcher: DirectoryWatcher,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Track the roots in `store`.

        Raises:
            SettingsError: `HOST_ROOT` is no directory.
        """
        self._settings = settings
        self._store = store
        self._watcher = watcher
        self._clock = clock
        self._processes = list_processes(settings)
        self._schedule = SearchSchedule(settings, self._processes)
        self._names: dict[str, tuple[str, str]] = {}
        """The names and images of containers, by their ids."""
        self._warn_once = functools.lru_cache(_WARNINGS_MAX)(functools.partial(log.warning, "%s"))
        self.roots: dict[ScanRoot, TrackedRoot] = {}
        self.packages = 0
        """Packages at the end of the last round."""
        for root in store.roots:
            self._track(root, self._origin(root))

    @property
    def containers(self) -> int:
        """The number of running containers."""
        return len(self._processes.containers)

    @property
    def failures(self) -> list[TrackedRoot]:
        """The roots of the host that cannot be read."""
        return [
            tracked
            for tracked in self.roots.values()
            if tracked.failure and not tracked.root.container_id
        ]

    @property
    def wait_seconds(self) -> float:
        """The pause before the next round, unless the watcher notifies a change."""
        times = [
            tracked.scan_at
            for tracked in self.roots.values()
            if tracked.detector.changed_since is not None
            or (not tracked.is_watched and tracked.missing_since is None)
        ]
        next_at = min([*times, self._schedule.next_search_at])
        return min(ROUND_SECONDS, max(CHANGING_SECONDS, next_at - self._clock.monotonic()))

    def scan(self) -> list[RootDiff]:
        """Do one round; return what is to be stored and emitted."""
        now = self._clock.monotonic()
        self._read_notifications(now)
        self._update_schedule(now)
        by_container: dict[str, list[TrackedRoot]] = {
            container_id: [] for container_id in self._schedule.file_systems
        }
        for tracked in self.roots.values():
            if tracked.root.container_id in by_container:
                by_container[tracked.root.container_id].append(tracked)
            else:
                tracked.note_missing(now)
        diffs: list[RootDiff] = []
        for container_id, tracked_roots in by_container.items():
            pending = [tracked for tracked in tracked_roots if tracked.scan_at <= now]
            patterns = self._schedule.next_patterns(container_id, now)
            if pending or patterns:
                diffs += self._scan_file_system(container_id, pending, patterns)
        self._forget_missing_roots()
        self.packages = sum(tracked.package_count for tracked in self.roots.values())
        return diffs

    def new_baselines(self) -> list[str]:
        """Return the file systems whose roots all have an inventory since the last round."""
        incomplete = {
            tracked.root.container_id
            for tracked in self.roots.values()
            if tracked.missing_since is None and tracked.root not in self._store
        }
        return list(self._schedule.searched - self._store.baselines - incomplete)

    def _read_notifications(self, now: float) -> None:
        keys, is_lossy = self._watcher.read()
        for key in keys:
            if isinstance(key, ScanRoot) and key in self.roots:
                self.roots[key].scan_at = 0.0
            elif isinstance(key, str):
                self._schedule.request_search(key, now + QUIET_SECONDS)
        if is_lossy:
            self._schedule.request_rescan()

    def _update_schedule(self, now: float) -> None:
        if self._schedule.update(now):
            for tracked in self.roots.values():
                tracked.request_rescan()
        if self._processes.is_restricted and self._settings.pkg_container_enabled:
            self._warn_once(
                "packages of other users' environments and of containers are not watched: their "
                "processes are hidden (run as root with CAP_SYS_PTRACE)"
            )

    def _scan_file_system(
        self, container_id: str, pending: list[TrackedRoot], patterns: list[ScanPattern]
    ) -> list[RootDiff]:
        """Search one file system for new roots, and scan these and the `pending` ones."""
        try:
            with self._open(container_id) as tree:
                if patterns:
                    pending += self._search(container_id, tree, patterns)
                return self._scan_roots(tree, pending)
        except ContainerEndedError:
            for tracked in pending:
                tracked.note_missing(self._clock.monotonic())
        except OSError as error:
            label = f"container {container_id[:12]}" if container_id else "the host"
            remedy = " (run as root with CAP_SYS_PTRACE)" if error.errno in (EACCES, EPERM) else ""
            self._warn_once(f"packages of {label} are not scanned: {error.strerror}{remedy}")
            for tracked in pending:
                tracked.scan_at = self._clock.monotonic() + CONTAINER_SECONDS
        return []

    def _open(self, container_id: str) -> AbstractContextManager[FileTree]:
        return open_file_system(self._processes, container_id, self._settings.host_root.rstrip("/"))

    def _scan_roots(self, tree: FileTree, pending: list[TrackedRoot]) -> list[RootDiff]:
        diffs: list[RootDiff] = []
        now = self._clock.monotonic()
        for tracked in pending:
            diff = tracked.scan(tree, self._store, self._clock)
            if diff is not None:
                diffs.append(diff)
            if tracked.missing_since is None and (diff is not None or not tracked.is_watched):
                tracked.watch(tree, self._watcher)
            if tracked.detector.changed_since is None and tracked.scan_at <= now:
                tracked.scan_at = now + _scan_interval_seconds(tracked)
        return diffs

    def _search(
        self, container_id: str, tree: FileTree, patterns: list[ScanPattern]
    ) -> list[TrackedRoot]:
        """Track the roots that match and are not tracked yet; return them."""
        for path in find_parents(tree):
            self._watcher.watch(tree, path, container_id)
        if container_id == HOST:
            self._warn_of_forbidden_paths(tree)
        name, image = self._name_and_image(container_id)
        for tracked in self.roots.values():
            if tracked.root.container_id == container_id:
                # A tracked root keeps its path, whatever other path leads there.
                tracked.inode = tree.inode(tracked.root.path)
                tracked.origin = self._origin(tracked.root, name, image)
        inodes = {tracked.inode for tracked in self.roots.values() if tracked.inode}
        new: list[TrackedRoot] = []
        for match in find_scan_roots(tree, patterns, self._settings.pkg_kinds, READERS):
            root = ScanRoot(match.kind, match.path, container_id)
            if root not in self.roots and match.inode not in inodes and not self._is_full():
                began_empty = match.began_empty and container_id in self._store.baselines
                tracked = self._track(root, self._origin(root, name, image), began_empty)
                tracked.inode = match.inode
                new.append(tracked)
        self._schedule.note_searched(container_id)
        return new

    def _track(
        self, root: ScanRoot, origin: PackageOrigin, began_empty: bool = False
    ) -> TrackedRoot:
        tracked = TrackedRoot(root, origin, READERS[root.kind], began_empty)
        self.roots[root] = tracked
        return tracked

    def _warn_of_forbidden_paths(self, tree: FileTree) -> None:
        for path in self._settings.pkg_paths:
            try:
                tree.names(path.strip("/"))
            except ForbiddenError:
                self._warn_once(
                    f"PKG_PATHS={path}: may not be read by user {os.geteuid()}; give it the right, "
                    "or name another path"
                )
            except (OSError, UnreadableError):
                continue  # it may exist later

    def _is_full(self) -> bool:
        is_full = len(self.roots) >= ROOTS_MAX
        if is_full:
            self._warn_once(
                f"further packages are not watched: there are {ROOTS_MAX} scan roots already"
            )
        return is_full

    def _origin(self, root: ScanRoot, name: str = "", image: str = "") -> PackageOrigin:
        manager = manager_of(root.kind, root.path)
        return PackageOrigin(self._settings.hostname, manager, name, image)

    def _name_and_image(self, container_id: str) -> tuple[str, str]:
        if container_id == HOST:
            return "", ""
        if container_id not in self._names:
            # Docker keeps its record of a container beside the /etc/hostname it mounts into it.
            mounted = self._processes.find_mount(container_id, "/etc/hostname")
            folder = mounted.rpartition("/")[0].strip("/")
            with self._open(HOST) as host:
                self._names[container_id] = find_name_and_image(host, container_id, folder)
        return self._names[container_id]

    def _forget_missing_roots(self) -> None:
        missing = sorted(
            (tracked for tracked in self.roots.values() if tracked.missing_since is not None),
            key=lambda tracked: tracked.missing_since or 0.0,
        )
        for tracked in missing[: max(0, len(missing) - MISSING_ROOTS_MAX)]:
            del self.roots[tracked.root]
            self._store.forget(tracked.root)
        remembered = {root.container_id for root in self.roots}
        remembered |= {HOST, *self._processes.containers}
        self._store.baselines &= remembered
        self._names = {name: self._names[name] for name in self._names.keys() & remembered}


def _scan_interval_seconds(tracked: TrackedRoot) -> float:
    """Return the interval of the scans of a root while nothing notifies a change."""
    if not tracked.is_watched:
        return UNWATCHED_SECONDS if tracked.missing_since is None else ROUND_SECONDS
    return CONTAINER_SECONDS if tracked.root.container_id else ROUND_SECONDS
