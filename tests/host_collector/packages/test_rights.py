"""What a collector that is not root does with what is root's alone. Shown as another user."""

from __future__ import annotations

import fcntl
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from sematext_agent.host_collector.packages.follow import Follower
from sematext_agent.host_collector.packages.locks import is_locked
from sematext_agent.host_collector.packages.notify import Notifier
from sematext_agent.host_collector.packages.slots import Slots, _Index
from sematext_agent.host_collector.packages.tree import tree_at
from sematext_agent.host_collector.settings import HostSettings

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
NOBODY = 65534


@contextmanager
def nobody() -> Iterator[None]:
    """Makes this process another user for a while."""
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A directory that everybody may read; those above `tmp_path` are root's."""
    with tempfile.TemporaryDirectory() as made:
        Path(made).chmod(0o755)
        yield Path(made)


def test_a_lock_that_may_not_be_opened_is_seen_all_the_same(folder: Path) -> None:
    lock = folder / "lock"
    lock.touch(mode=0o600)

    def seen() -> bool:
        with nobody(), tree_at("/") as tree:
            return is_locked(tree, str(lock))

    with lock.open("w") as file:
        assert not seen()
        fcntl.lockf(file, fcntl.LOCK_EX)
        assert seen()
    assert not seen()


def test_what_may_not_be_read_any_more_is_left_alone_and_said_once(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As when a collector that was root goes on as somebody else: no removal, and no failure."""
    private, usual = folder / "root", folder / "usr"
    for home in (private / ".local", usual):
        info = home / "lib/python3/site-packages/base-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text("Name: base\nVersion: 1.0\n")
        (info / "RECORD").touch()
    settings = HostSettings(
        host_root=str(folder),
        pkg_container_enabled=False,
        pkg_kinds=("python3",),
        pkg_paths=("/root/venv",),
    )
    notifier = Notifier()
    follower = Follower(settings, Slots(_Index()), notifier)
    changes: list[object] = []

    def look_until(condition: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 20
        while not condition():
            assert time.monotonic() < deadline
            changes.extend(change for told in follower.round() for change in told.changes)
            time.sleep(0.05)

    look_until(lambda: follower.packages == 2)
    private.chmod(0o700)
    follower._rescan_at = 0.0
    with nobody():
        look_until(lambda: follower.packages == 1)
        follower._rescan_at = 0.0
        look_until(lambda: follower._rescan_at > 0)
    assert follower.failures == []
    said = [record.getMessage() for record in caplog.records]
    assert said == [
        f"PKG_PATHS=/root/venv: may not be read by user {NOBODY}; give it the right, "
        "or name another path",
        "packages of /root/.local/lib/python3/site-packages are not told: "
        "/root/.local/lib/python3/site-packages: Permission denied",
    ]
    look_until(lambda: follower.packages == 2)
    assert changes == []
    notifier.close()
