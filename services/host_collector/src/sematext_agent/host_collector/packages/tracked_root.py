"""One scan root that is tracked: when to scan it, and the changes that a scan shows.

A root is read once it has changed and then been quiet for a moment, its package manager is not at
work, and it did not change again while it was read. A root that cannot be read keeps its inventory
and is tried again: that never means that its packages were removed.
"""

from __future__ import annotations

import logging

from sematext_agent.host_collector.file_tree import FileTree, ForbiddenError, UnreadableError
from sematext_agent.host_collector.packages.diff import diff_inventories, keep_first_stamps
from sematext_agent.host_collector.packages.inventory import PackageOrigin, RootDiff, ScanRoot
from sematext_agent.host_collector.packages.inventory_store import InventoryStore
from sematext_agent.host_collector.packages.readers.locks import is_locked
from sematext_agent.host_collector.packages.readers.reader import PackageReader
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.shared.clock import Clock

log = logging.getLogger(__name__)

QUIET_SECONDS = 0.4
"""Seconds that a root must have been unchanged before it is read."""
_UNFINISHED_SECONDS = 0.3
_RETRY_SECONDS = 10


class ChangeDetector:
    """The moment since which a root differs from its last scan, by its fingerprint."""

    def __init__(self) -> None:
        self.changed_since: float | None = None
        """Time of the first change since the last scan; None where there is none."""
        self._fingerprint: tuple[int, ...] = ()
        self._changed_at = 0.0

    def observe(self, fingerprint: tuple[int, ...], now: float) -> bool:
        """Compare with the fingerprint before; return whether it changed."""
        is_changed = fingerprint != self._fingerprint
        if is_changed:
            self._fingerprint = fingerprint
            self._changed_at = now
            if self.changed_since is None:
                self.changed_since = now
        return is_changed

    def is_current(self, fingerprint: tuple[int, ...]) -> bool:
        """Return whether the root has this fingerprint since the last `observe`."""
        return fingerprint == self._fingerprint

    def is_quiet(self, now: float) -> bool:
        """Return whether the last change is long enough ago for a scan."""
        return now - self._changed_at >= QUIET_SECONDS

    def forget(self) -> None:
        """Make the next `observe` a change."""
        self._fingerprint = ()


class TrackedRoot:
    """A scan root and the state of its scans. Times are seconds of the monotonic clock."""

    def __init__(
        self, root: ScanRoot, origin: PackageOrigin, reader: PackageReader, began_empty: bool
    ) -> None:
        """Track `root`; the first packages of one that `began_empty` are changes, no baseline."""
        self.root = root
        self.origin = origin
        self.inode: tuple[int, int] | None = None
        self.is_watched = False
        """True where the kernel notifies every change."""
        self.failure = ""
        """The reason for which it could not be read the last time; empty where it was read."""
        self.missing_since: float | None = None
        """The time of its unmounting, deletion, or its container's end; None while it exists."""
        self.scan_at = 0.0
        """The time of the next scan."""
        self.package_count = 0
        self.detector = ChangeDetector()
        self._began_empty = began_empty
        self._reader = reader

    @property
    def label(self) -> str:
        """The root, for logs and health."""
        container = self.origin.container_name or self.root.container_id[:12]
        return f"/{self.root.path}" + (f" in container {container}" if container else "")

    def request_rescan(self) -> None:
        """Make the next scan read the root, changed or not."""
        self.detector.forget()
        self.scan_at = 0.0

    def note_missing(self, now: float) -> None:
        """Note that it does not exist any more."""
        if self.missing_since is None:
            self.missing_since = now
            self.inode = None
            self.package_count = 0
            self.is_watched = False
            self.detector = ChangeDetector()

    def watch(self, tree: FileTree, watcher: DirectoryWatcher) -> None:
        """Ask the kernel to notify changes in it."""
        try:
            folders = self._reader.folders(tree, self.root.path)
        except (OSError, UnreadableError):
            folders = []
        watched = [watcher.watch(tree, path, self.root) for path in folders]
        self.is_watched = bool(watched) and all(watched)

    def scan(self, tree: FileTree, store: InventoryStore, clock: Clock) -> RootDiff | None:
        """Read the root if it changed and is ready; return what is to be stored and emitted."""
        now = clock.monotonic()
        try:
            fingerprint = self._find_fingerprint(tree)
            if not fingerprint:
                self.note_missing(now)
                return None
            if self.detector.observe(fingerprint, now):
                self.missing_since = None
            if not self._is_ready(tree, now):
                return None
            return self._read(tree, store, clock)
        except (OSError, UnreadableError) as error:
            if str(error) != self.failure:
                self.failure = str(error)
                log.warning("packages of %s are not updated: %s", self.label, error)
            self.scan_at = now + _RETRY_SECONDS
            return None

    def _find_fingerprint(self, tree: FileTree) -> tuple[int, ...]:
        """Return the fingerprint; empty also where it may not be read any more."""
        try:
            return self._reader.fingerprint(tree, self.root.path)
        except ForbiddenError as error:
            if self.missing_since is None:
                log.warning("packages of %s are not watched: %s", self.label, error)
            return ()

    def _is_ready(self, tree: FileTree, now: float) -> bool:
        """Return whether it changed, is quiet, and its package manager is not at work."""
        changed_since = self.detector.changed_since
        if changed_since is None or not self.detector.is_quiet(now):
            return False
        return now - changed_since >= self._reader.lock_seconds_max or not any(
            is_locked(tree, f"{self.root.path}/{name}") for name in self._reader.lock_files
        )

    def _read(self, tree: FileTree, store: InventoryStore, clock: Clock) -> RootDiff | None:
        before = store.packages(self.root)
        scan = self._reader.scan(tree, self.root.path, before, clock.wall_ns())
        if scan.unfinished:
            self.scan_at = clock.monotonic() + _UNFINISHED_SECONDS
            return None
        if not self.detector.is_current(self._reader.fingerprint(tree, self.root.path)):
            return None
        self.failure = ""
        self.detector.changed_since = None
        self.package_count = len(scan.packages)
        has_baseline = self.root in store or self._began_empty
        changes = diff_inventories(before, scan, self._reader.installed_at) if has_baseline else []
        packages = keep_first_stamps(before, scan.packages)
        if self.root in store and not changes and packages == before:
            return None
        return RootDiff(self.root, self.origin, changes, store.put(self.root, packages))
