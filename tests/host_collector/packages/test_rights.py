"""A collector that is not root, and files that only root may read."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from package_run import STEP_SECONDS, SkippingClock, write_distribution

from sematext_agent.host_collector.packages.inventory_store import InventoryStore
from sematext_agent.host_collector.packages.scanner import PackageScanner
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
NOBODY = 65534


@contextmanager
def nobody() -> Iterator[None]:
    """Make this process another user for a while."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """Return a directory that everybody may read; the parents of `tmp_path` are root's."""
    with tempfile.TemporaryDirectory() as path:
        Path(path).chmod(0o755)
        yield Path(path)


def test_packages_that_become_unreadable_are_no_removals_and_logged_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a collector that was root goes on as somebody else: no removal, and no failure."""
    private = folder / "root"
    for home in (private / ".local", folder / "usr"):
        write_distribution(home / "lib/python3/site-packages", "base", "1.0")
    settings = HostSettings(
        host_root=str(folder),
        pkg_container_enabled=False,
        pkg_kinds=("python3",),
        pkg_paths=("/root/venv",),
        pkg_interval=5.0,  # type: ignore[arg-type]
    )
    watcher, clock = DirectoryWatcher(), SkippingClock()
    scanner = PackageScanner(settings, InventoryStore(), watcher, clock)
    changes: list[object] = []

    def scan_until(condition: Callable[[], bool], seconds: float = 20) -> None:
        deadline = clock.monotonic() + seconds
        while not condition():
            assert clock.monotonic() < deadline
            changes.extend(change for diff in scanner.scan() for change in diff.changes)
            clock.skipped_seconds += STEP_SECONDS

    scan_until(lambda: scanner.packages == 2)
    private.chmod(0o700)
    with nobody():
        scan_until(lambda: scanner.packages == 1)
        second_rescan = clock.monotonic() + 10
        scan_until(lambda: clock.monotonic() > second_rescan)
    assert scanner.failures == []
    assert sorted(record.getMessage() for record in caplog.records) == [
        f"PKG_PATHS=/root/venv: may not be read by user {NOBODY}; give it the right, "
        "or name another path",
        "packages of /root/.local/lib/python3/site-packages are not watched: "
        "/root/.local/lib/python3/site-packages: Permission denied",
    ]
    scan_until(lambda: scanner.packages == 2)
    assert changes == []
    watcher.close()
