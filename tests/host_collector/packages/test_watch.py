"""The watch of packages: notifications of the kernel, and what happens without them."""

from __future__ import annotations

import asyncio
import os
from pathlib import Path

import pytest
from inotify_simple import INotify  # type: ignore[import-untyped]
from package_run import PackageRun, write_distribution

from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.packages import scanner
from sematext_agent.host_collector.packages.watch import wait_for_change
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.shared.settings import SettingsError


@pytest.mark.parametrize("cause", ["notification", "stop", "time"])
async def test_a_wait_ends_with_a_notification_the_stop_or_its_time(
    tmp_path: Path, cause: str
) -> None:
    watcher, stopping = DirectoryWatcher(), asyncio.Event()
    loop = asyncio.get_running_loop()
    with open_tree(str(tmp_path)) as tree:
        assert watcher.watch(tree, ".", "key")
    if cause == "notification":
        loop.call_later(0.02, (tmp_path / "new").touch)
    elif cause == "stop":
        loop.call_later(0.02, stopping.set)
    async with asyncio.timeout(5):
        await wait_for_change(stopping, watcher, 0.02 if cause == "time" else 60)
    assert watcher.read() == ({"key"} if cause == "notification" else set(), False)
    watcher.close()


async def test_changes_without_a_notification_are_seen_all_the_same(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems without notifications: the roots are scanned every second."""
    monkeypatch.setattr(DirectoryWatcher, "watch", lambda *_: False)
    async with PackageRun(host) as run:
        write_distribution(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.expect_events(1) == ["installed python3 added 1.0"]


async def test_the_limit_of_watched_directories_is_logged_once(
    host: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(INotify, "add_watch", refuse)
    async with PackageRun(host) as run:
        write_distribution(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.expect_events(1) == ["installed python3 added 1.0"]
    assert caplog.text.count("(raise fs.inotify.max_user_watches)") == 1


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


async def test_a_full_queue_of_notifications_leads_to_a_full_rescan(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the notifications are lost; what they were about is scanned all the same."""
    limit = int(await asyncio.to_thread(QUEUE.read_text))
    monkeypatch.setattr(scanner, "ROUND_SECONDS", 30)
    noisy = host / "usr/lib/python3.11/site-packages"
    noisy.mkdir(parents=True)
    async with PackageRun(host) as run:
        # No pause for the event loop: the queue overflows before anybody reads it.
        for _ in range(limit // 2 + 100):
            (noisy / "noise").touch()
            (noisy / "noise").unlink()
        write_distribution(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.expect_events(1) == ["installed python3 added 1.0"]


async def test_a_missing_host_root_is_one_clear_line() -> None:
    with pytest.raises(SettingsError, match=r"^HOST_ROOT=/nowhere: no such directory; mount"):
        async with PackageRun("/nowhere"):
            raise AssertionError("it must not start")
