"""Roots that appear, move, are shared or are lost, and the packages in them."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from package_managers import Pip, tool
from package_managers import run as run_command
from package_run import PackageRun, write_distribution

Start = Callable[..., subprocess.Popen[bytes]]


@pytest.fixture
def start() -> Iterator[Start]:
    """Return a function that starts a process, which ends with the test."""
    with ExitStack() as stack:

        def start(*command: str | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, cwd=cwd))
            stack.callback(process.kill)
            return process

        yield start


async def test_the_environment_of_a_running_process_is_tracked_and_stays_so(
    tmp_path: Path, start: Start
) -> None:
    """A virtual environment anywhere, from when a process first runs from it.

    Changes are events also after the process has ended. lib64, a link to lib, is the same root.
    """
    venv = tmp_path / "srv/app"
    site = venv / f"lib/python3.{sys.version_info.minor}/site-packages"
    Pip(venv)
    write_distribution(site, "before", "1.0")
    async with PackageRun("", pkg_kinds=("python3",)) as run:
        process = start(venv / "bin/python", "-c", "import time; time.sleep(60)")
        part = f"{str(site).strip('/')}"
        await run.until(lambda: any(part.encode() in v for v in run.bucket.values.values()), 6)
        write_distribution(site, "after", "2.0")
        await run.until(lambda: bool(run.events), seconds=2)
        process.kill()
        (site / "after-2.0.dist-info").rename(site / "after-3.0.dist-info")
        (site / "after-3.0.dist-info/METADATA").write_text("Name: after\nVersion: 3.0\n")
        await run.until(lambda: len(run.events) >= 3, seconds=2)
        summaries = [text for text in run.summaries() if "after" in text or "before" in text]
        assert summaries == [
            "installed python3 after 2.0",
            "removed python3 after 2.0 -> 3.0",
            "installed python3 after 3.0 <- 2.0",
        ]


async def test_the_project_of_a_running_process_of_node_is_tracked(
    tmp_path: Path, start: Start
) -> None:
    """By its working directory, from below which the packages are found upwards."""
    modules = tmp_path / "srv/site/node_modules"
    modules.mkdir(parents=True)
    lock = modules / ".package-lock.json"
    lock.write_text('{"packages": {"node_modules/a": {"version": "1.0.0"}}}')
    work = tmp_path / "srv/site/server"
    work.mkdir()
    async with PackageRun("", pkg_kinds=("node",)) as run:
        start(tool("node"), "-e", "setInterval(() => 0, 1000)", cwd=work)
        part = str(modules).strip("/").encode()
        await run.until(lambda: any(part in value for value in run.bucket.values.values()), 6)
        lock.write_text('{"packages": {"node_modules/a": {"version": "1.0.1"}}}')
        await run.until(lambda: len(run.events) >= 2, seconds=2)
        assert run.summaries() == [
            "removed node a 1.0.0 -> 1.0.1",
            "installed node a 1.0.1 <- 1.0.0",
        ]


async def test_nothing_is_written_below_the_host_root(host: Path) -> None:
    """Not a file, not a time of one, and so a mount that is read-only is enough."""
    (host / "var/lib/dpkg").mkdir(parents=True)
    (host / "var/lib/dpkg/status").write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
    )

    def state() -> list[tuple[str, int, int]]:
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in host.rglob("*")]

    before = state()
    async with PackageRun(host, pkg_interval=1.0) as run:
        await run.pass_time(2.5)
        assert "2 packages in 2 scan roots" in run.health.report().conditions["packages"].detail
    assert state() == before


async def test_links_of_a_mounted_host_are_resolved_below_its_root(host: Path) -> None:
    """SUSE and Fedora keep rpm's database behind a link; an absolute one means the host's root."""
    real = host / "srv/packages"
    write_distribution(real, "linked", "1.0")
    (host / "usr/lib/python3.11").mkdir()
    (host / "usr/lib/python3.11/site-packages").symlink_to("/srv/packages")
    outside = host.parent / "outside"
    write_distribution(outside, "secret", "1.0")
    (host / "usr/lib/python3.12").mkdir()
    (host / "usr/lib/python3.12/site-packages").symlink_to(outside)
    async with PackageRun(host) as run:
        write_distribution(outside, "secret2", "1.0")
        write_distribution(real, "added", "1.0")
        assert await run.expect_events(1) == ["installed python3 added 1.0"]


async def test_a_tracked_root_keeps_its_path_when_another_leads_to_it(host: Path) -> None:
    """Also over a restart: else every package would be an event a second time."""
    site = host / "srv/env/lib/python3.11/site-packages"
    write_distribution(site, "a", "1.0")
    async with PackageRun(host, pkg_paths=("srv/env",)) as run:
        await run.pass_time(0)
    (host / "usr/lib/python3.11").mkdir()
    (host / "usr/lib/python3.11/site-packages").symlink_to("/srv/env/lib/python3.11/site-packages")
    async with PackageRun(host, run.bucket, pkg_paths=("srv/env",)) as again:
        write_distribution(site, "b", "1.0")
        assert await again.expect_events(1) == ["installed python3 b 1.0"]
        assert "2 scan roots" in again.health.report().conditions["packages"].detail


async def test_a_disk_that_is_mounted_brings_its_packages_with_it(
    host: Path, tmp_path: Path
) -> None:
    """Nobody has installed them, although the directory was empty before."""
    # Root in a container may not mount.
    probe: list[str | Path] = [tool("mount"), "-t", "tmpfs", "packages-test", tmp_path]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    subprocess.run(["umount", tmp_path], check=True)
    target = host / "usr/local/lib"
    write_distribution(target / "python3.11/dist-packages", "local", "1.0")
    async with PackageRun(host, pkg_interval=1.0) as run:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = target / "python3.12/site-packages"
        mounted.mkdir(parents=True)
        shutil.rmtree(target / "python3.12")
        await asyncio.to_thread(run_command, "mount", "-t", "tmpfs", "packages-test", disk)
        try:
            write_distribution(disk, "there", "1.0")
            stage = tmp_path / "python3.12"
            (stage / "site-packages").mkdir(parents=True)
            await asyncio.to_thread(run_command, "mount", "--bind", disk, stage / "site-packages")
            stage.rename(target / "python3.12")
            await run.pass_time(1.8)
            assert run.summaries() == []
            write_distribution(disk, "new", "1.0")
            assert await run.expect_events(1, 3) == ["installed python3 new 1.0"]
        finally:
            for path in (target / "python3.12/site-packages", stage / "site-packages", disk):
                await asyncio.to_thread(subprocess.call, ["umount", str(path)])


async def test_a_first_run_stores_a_baseline_and_a_restart_emits_the_difference(host: Path) -> None:
    folder = host / "usr/lib/python3/dist-packages"
    async with PackageRun(host) as run:
        await run.pass_time()
        assert run.events == []
    write_distribution(folder, "added", "1.0")
    async with PackageRun(host, run.bucket) as again:
        assert await again.expect_events(1) == ["installed python3 added 1.0"]
    async with PackageRun(host, run.bucket) as silent:
        await silent.pass_time()
        assert silent.events == []


async def test_the_same_change_seen_twice_has_the_same_id(host: Path) -> None:
    """Killed after the events and before the cursor, the next run makes the very same events."""
    folder = host / "usr/lib/python3/dist-packages"
    async with PackageRun(host) as run:
        stored = dict(run.bucket.values)
        write_distribution(folder, "added", "1.0")
        (folder / "base-1.0.dist-info").rename(host / "away")
        await run.expect_events(2)
    run.bucket.values = stored
    await asyncio.sleep(0.02)
    write_distribution(folder, "later", "1.0")
    async with PackageRun(host, run.bucket) as again:
        await again.expect_events(3)
        ids = {event.id for event in run.events}
        assert {event.id for event in again.events} > ids


def test_a_missing_right_is_logged_once() -> None:
    """Run as somebody else: the rest of the work goes on."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    script = """
import os
from sematext_agent.host_collector.packages.inventory_store import InventoryStore
from sematext_agent.host_collector.packages.scanner import PackageScanner
from sematext_agent.host_collector.packages.watcher import DirectoryWatcher
from sematext_agent.host_collector.settings import HostSettings
os.setgid(65534); os.setuid(65534)
scanner = PackageScanner(HostSettings(pkg_kinds=("deb",)), InventoryStore(), DirectoryWatcher())
scanner.scan(); scanner._schedule.request_rescan(); scanner.scan()
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run as root with CAP_SYS_PTRACE") == 1, done.stderr
