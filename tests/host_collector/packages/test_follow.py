"""Finding roots and following them: what runs, what appears, what is shared, what is lost."""

from __future__ import annotations

import asyncio
import logging
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
from package_run import Run

from sematext_agent.host_collector.packages import follow, notify, roots, slots
from sematext_agent.host_collector.packages.containers import ContainerGone, tree_of
from sematext_agent.host_collector.packages.processes import HOST, Processes
from sematext_agent.host_collector.packages.tree import tree_at
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.settings import SettingsError, load_settings

Start = Callable[..., subprocess.Popen[bytes]]


def _python(site: Path, name: str, version: str) -> None:
    info = site / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "METADATA").write_text(f"Name: {name}\nVersion: {version}\n")
    (info / "RECORD").touch()


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """A host with one package of Python."""
    _python(tmp_path / "host/usr/lib/python3/dist-packages", "base", "1.0")
    return tmp_path / "host"


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a process that ends with the test."""
    with ExitStack() as stack:

        def start(*command: str | Path, cwd: Path | None = None) -> subprocess.Popen[bytes]:
            process = stack.enter_context(subprocess.Popen(command, cwd=cwd))
            stack.callback(process.kill)
            return process

        yield start


async def test_the_environment_of_a_running_process_is_followed_and_stays_so(
    tmp_path: Path, start: Start
) -> None:
    """A virtual environment anywhere: known from when a process runs from it, then told, also after
    the process has ended. lib64, a link to lib, is the same place."""
    venv = tmp_path / "srv/app"
    site = venv / f"lib/python3.{sys.version_info.minor}/site-packages"
    Pip(venv)
    _python(site, "before", "1.0")
    async with Run("", pkg_kinds=("python3",)) as run:
        process = start(venv / "bin/python", "-c", "import time; time.sleep(60)")
        part = f"{str(site).strip('/')}"
        await run.until(lambda: any(part.encode() in v for v in run.bucket.values.values()), 6)
        _python(site, "after", "2.0")
        await run.until(lambda: bool(run.told), seconds=2)
        process.kill()
        (site / "after-2.0.dist-info").rename(site / "after-3.0.dist-info")
        (site / "after-3.0.dist-info/METADATA").write_text("Name: after\nVersion: 3.0\n")
        await run.until(lambda: len(run.told) >= 3, seconds=2)
        words = [word for word in run.words() if "after" in word or "before" in word]
        assert words == [
            "installed python3 after 2.0",
            "removed python3 after 2.0 -> 3.0",
            "installed python3 after 3.0 <- 2.0",
        ]


async def test_the_project_of_a_running_process_of_node_is_followed(
    tmp_path: Path, start: Start
) -> None:
    """By its working directory, from below which the packages are found upwards."""
    modules = tmp_path / "srv/site/node_modules"
    modules.mkdir(parents=True)
    lock = modules / ".package-lock.json"
    lock.write_text('{"packages": {"node_modules/a": {"version": "1.0.0"}}}')
    work = tmp_path / "srv/site/server"
    work.mkdir()
    async with Run("", pkg_kinds=("node",)) as run:
        start(tool("node"), "-e", "setInterval(() => 0, 1000)", cwd=work)
        part = str(modules).strip("/").encode()
        await run.until(lambda: any(part in value for value in run.bucket.values.values()), 6)
        lock.write_text('{"packages": {"node_modules/a": {"version": "1.0.1"}}}')
        await run.until(lambda: len(run.told) >= 2, seconds=2)
        assert run.words() == ["removed node a 1.0.0 -> 1.0.1", "installed node a 1.0.1 <- 1.0.0"]


async def test_what_the_kernel_does_not_notify_is_found_all_the_same(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on file systems without notifications: the roots are looked at every second."""
    monkeypatch.setattr(notify.Notifier, "watch", lambda *_: False)
    async with Run(host) as run:
        _python(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.until_told(1) == ["installed python3 added 1.0"]


async def test_when_no_more_can_be_watched_it_is_said_once(
    host: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> int:
        raise OSError(28, os.strerror(28))

    monkeypatch.setattr(notify.INotify, "add_watch", refuse)
    async with Run(host) as run:
        _python(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.until_told(1) == ["installed python3 added 1.0"]
    said = [r for r in caplog.records if "fs.inotify.max_user_watches" in r.getMessage()]
    assert len(said) == 1


QUEUE = Path("/proc/sys/fs/inotify/max_queued_events")


async def test_a_full_queue_of_notes_leads_to_a_look_at_everything(
    host: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most of the notes are lost with it; what they would have told is told."""
    limit = int(await asyncio.to_thread(QUEUE.read_text))
    monkeypatch.setattr(follow, "ROUND_SECONDS", 30)
    noisy = host / "usr/lib/python3.11/site-packages"
    noisy.mkdir(parents=True)
    async with Run(host) as run:
        # No pause for the event loop: the queue overflows before anybody reads it.
        for _ in range(limit // 2 + 100):
            (noisy / "noise").touch()
            (noisy / "noise").unlink()
        _python(host / "usr/lib/python3/dist-packages", "added", "1.0")
        assert await run.until_told(1) == ["installed python3 added 1.0"]


async def test_nothing_is_written_below_the_host_root(host: Path) -> None:
    """Not a file, not a time of one, and so a mount that is read-only is enough."""
    (host / "var/lib/dpkg").mkdir(parents=True)
    (host / "var/lib/dpkg/status").write_text(
        "Package: a\nStatus: install ok installed\nVersion: 1\nArchitecture: all\n\n"
    )

    def state() -> list[tuple[str, int, int]]:
        return [(str(p), p.lstat().st_mtime_ns, p.lstat().st_ctime_ns) for p in host.rglob("*")]

    before = state()
    async with Run(host, pkg_interval=1.0) as run:
        await run.quiet(2.5)
        assert "2 packages in 2 places" in run.health.report().conditions["packages"].detail
    assert state() == before


async def test_links_of_a_mounted_host_are_resolved_below_its_root(host: Path) -> None:
    """SUSE and Fedora keep rpm's database behind a link; an absolute one means the host's root."""
    real = host / "srv/packages"
    _python(real, "linked", "1.0")
    (host / "usr/lib/python3.11").mkdir()
    (host / "usr/lib/python3.11/site-packages").symlink_to("/srv/packages")
    outside = host.parent / "outside"
    _python(outside, "secret", "1.0")
    (host / "usr/lib/python3.12").mkdir()
    (host / "usr/lib/python3.12/site-packages").symlink_to(outside)
    async with Run(host) as run:
        _python(outside, "secret2", "1.0")
        _python(real, "added", "1.0")
        assert await run.until_told(1) == ["installed python3 added 1.0"]


def test_a_directory_with_two_paths_is_one_root(host: Path) -> None:
    (host / "usr/lib64").symlink_to("lib")
    _python(host / "usr/lib/python3.11/site-packages", "a", "1.0")
    with tree_at(str(host)) as tree:
        paths = [found.path for found in roots.find(tree, roots.PLACES, ("python3",))]
    assert sorted(paths) == ["usr/lib/python3.11/site-packages", "usr/lib/python3/dist-packages"]


async def test_a_root_that_is_known_keeps_its_path_when_another_leads_to_it(host: Path) -> None:
    """Also over a restart: else every package would be told a second time."""
    site = host / "srv/env/lib/python3.11/site-packages"
    _python(site, "a", "1.0")
    async with Run(host, pkg_paths=("srv/env",)) as run:
        await run.quiet(0)
    (host / "usr/lib/python3.11").mkdir()
    (host / "usr/lib/python3.11/site-packages").symlink_to("/srv/env/lib/python3.11/site-packages")
    async with Run(host, run.bucket, pkg_paths=("srv/env",)) as again:
        _python(site, "b", "1.0")
        assert await again.until_told(1) == ["installed python3 b 1.0"]
        assert "2 places" in again.health.report().conditions["packages"].detail


async def test_a_disk_that_is_mounted_brings_its_packages_with_it(
    host: Path, tmp_path: Path
) -> None:
    """Nobody has installed them, although the directory was empty before."""
    # Root in a container may not mount.
    probe = [tool("mount"), "-t", "tmpfs", "packages-test", tmp_path]
    if subprocess.run(probe, capture_output=True).returncode != 0:
        pytest.skip("needs the right to mount a file system")
    subprocess.run(["umount", tmp_path], check=True)
    target = host / "usr/local/lib"
    _python(target / "python3.11/dist-packages", "local", "1.0")
    async with Run(host, pkg_interval=1.0) as run:
        disk = tmp_path / "disk"
        disk.mkdir()
        mounted = target / "python3.12/site-packages"
        mounted.mkdir(parents=True)
        shutil.rmtree(target / "python3.12")
        await asyncio.to_thread(run_command, "mount", "-t", "tmpfs", "packages-test", disk)
        try:
            _python(disk, "there", "1.0")
            stage = tmp_path / "python3.12"
            (stage / "site-packages").mkdir(parents=True)
            await asyncio.to_thread(run_command, "mount", "--bind", disk, stage / "site-packages")
            stage.rename(target / "python3.12")
            await run.quiet(1.8)
            assert run.words() == []
            _python(disk, "new", "1.0")
            assert await run.until_told(1, 3) == ["installed python3 new 1.0"]
        finally:
            for path in (target / "python3.12/site-packages", stage / "site-packages", disk):
                await asyncio.to_thread(subprocess.run, ["umount", path], capture_output=True)


def test_only_the_kinds_that_are_wanted_are_looked_for(host: Path) -> None:
    _python(host / "usr/lib/python2.7/dist-packages", "old", "1.0")
    (host / "usr/lib/node_modules").mkdir()
    with tree_at(str(host)) as tree:
        assert [found.path for found in roots.find(tree, roots.PLACES, ("python2", "deb"))] == [
            "usr/lib/python2.7/dist-packages"
        ]


async def test_a_first_run_is_silent_and_a_restart_tells_the_difference(host: Path) -> None:
    folder = host / "usr/lib/python3/dist-packages"
    async with Run(host) as run:
        await run.quiet()
        assert run.told == []
    _python(folder, "added", "1.0")
    async with Run(host, run.bucket) as again:
        assert await again.until_told(1) == ["installed python3 added 1.0"]
    async with Run(host, run.bucket) as silent:
        await silent.quiet()
        assert silent.told == []


async def test_the_same_change_seen_twice_has_the_same_id(host: Path) -> None:
    """Killed after the events and before the cursor, the next run makes the very same events."""
    folder = host / "usr/lib/python3/dist-packages"
    async with Run(host) as run:
        stored = dict(run.bucket.values)
        _python(folder, "added", "1.0")
        (folder / "base-1.0.dist-info").rename(host / "away")
        await run.until_told(2)
    run.bucket.values = stored
    await asyncio.sleep(0.02)
    _python(folder, "later", "1.0")
    async with Run(host, run.bucket) as again:
        await again.until_told(3)
        ids = {event.id for event in run.told}
        assert {event.id for event in again.told} > ids


def test_a_container_needs_an_id_and_a_file_system_of_its_own(tmp_path: Path) -> None:
    """What only watches over a container (conmon) lives in its control group, and is the host's."""
    proc = tmp_path / "proc"
    container = "c0ffee" * 10 + "abcd"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "7", f"0::/libpod-conmon-{container}.scope", "mnt:[1]")
    _process(proc, "8", "0::/system.slice/private-tmp.service", "mnt:[2]")
    processes = Processes(str(proc))
    processes.look()
    assert processes.containers == {}
    inner = "ab" * 32
    _process(proc, "9", f"1:name=systemd:/docker/{container}/kubepods/{inner}", "mnt:[3]")
    processes.look()
    assert processes.containers == {inner: 9}


@pytest.mark.parametrize(("host_root", "process"), [("", "self"), ("/", "1"), ("/usr", "1")])
def test_the_hosts_file_system_is_told_by_its_first_process_where_a_root_is_set(
    host_root: str, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under systemd's ProtectSystem= the collector's own namespace is not the host's."""
    asked: list[str] = []
    link = Processes._link
    monkeypatch.setattr(
        Processes, "_link", lambda self, pid, name: asked.append(str(pid)) or link(self, pid, name)
    )
    known = slots.Slots(slots._Index())
    notifier = notify.Notifier()
    follow.Follower(HostSettings(host_root=host_root), known, notifier)
    notifier.close()
    assert asked == [process]


def test_a_process_number_that_is_another_process_now_is_not_entered(tmp_path: Path) -> None:
    """Its container has ended, and the system has given the number away."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "9", f"0::/docker-{'ab' * 32}.scope", "mnt:[3]")
    (proc / "9/root").mkdir()
    processes = Processes(str(proc))
    processes.look()
    with tree_of(processes, "ab" * 32, "") as tree:
        assert tree.names(".") == []
    (proc / "9/cgroup").write_text("0::/user.slice")
    with pytest.raises(ContainerGone), tree_of(processes, "ab" * 32, ""):
        pass


@pytest.mark.parametrize(
    ("exe", "cwd", "command", "environ", "expected"),
    [
        ("/usr/bin/python3", "/", "/srv/venv/bin/python -u app.py", "", "srv/venv"),
        ("/usr/bin/python3", "/srv/app", ".venv/bin/python app.py", "", "srv/app/.venv"),
        ("/usr/bin/python3", "/", "/usr/bin/python3 -s -E -u /opt/x/y/bin/gunicorn", "", "opt/x/y"),
        ("/usr/bin/python3", "/", "python app.py", "VIRTUAL_ENV=/v", "v"),
        ("/usr/bin/python3", "/", "python app.py", "PATH=/v/bin:/usr/bin", "v"),
        ("/usr/bin/node", "/srv", "node --check app/server.js", "", "srv/app/node_modules"),
        ("/usr/bin/node", "/srv/app/src", "node", "", "srv/app/node_modules"),
        ("/opt/node/bin/node", "/", "node /srv/app/main.js", "", "srv/app/node_modules"),
        ("/opt/node/bin/node", "/", "node", "", "opt/node/lib/node_modules"),
    ],
)
def test_where_a_process_runs_packages_from(
    tmp_path: Path, exe: str, cwd: str, command: str, environ: str, expected: str
) -> None:
    """By its program, its directory, its arguments, also relative ones, and its variables."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "7", "0::/", "mnt:[1]")
    (proc / "7/exe").symlink_to(exe)
    (proc / "7/cwd").symlink_to(cwd)
    (proc / "7/cmdline").write_text(command.replace(" ", "\0") + "\0")
    (proc / "7/environ").write_text(f"HOME=/root\0{environ}\0")
    packages = "" if expected.endswith("node_modules") else "/lib/python*/site-packages"
    found = Processes(str(proc)).look()[HOST]
    assert expected + packages in {place.pattern for place in found}


def test_a_usual_place_stays_one_when_a_process_names_it(tmp_path: Path) -> None:
    """Else the first package there would not be told if its installer was seen running first."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    for pid, exe in ("7", "/usr/bin/node"), ("8", "/usr/local/bin/python3"):
        _process(proc, pid, "0::/", "mnt:[1]")
        (proc / pid / "exe").symlink_to(exe)
    found = Processes(str(proc)).look()[HOST]
    assert len(found) == 7
    assert found <= set(roots.PLACES)


def _process(proc: Path, pid: str, cgroup: str, namespace: str) -> None:
    (proc / pid / "ns").mkdir(parents=True)
    (proc / pid / "cgroup").write_text(cgroup)
    (proc / pid / "ns/mnt").symlink_to(namespace)


def test_without_permission_it_is_said_once_what_is_missing() -> None:
    """Run as somebody else: the rest of the work goes on."""
    if os.geteuid() != 0:
        pytest.skip("needs root to become somebody else")
    script = (
        "import os\n"
        "from sematext_agent.host_collector.packages.follow import Follower\n"
        "from sematext_agent.host_collector.packages.notify import Notifier\n"
        "from sematext_agent.host_collector.packages.slots import Slots, _Index\n"
        "from sematext_agent.host_collector.settings import HostSettings\n"
        "os.setgid(65534); os.setuid(65534)\n"
        "f = Follower(HostSettings(pkg_kinds=('deb',)), Slots(_Index()), Notifier())\n"
        "f.round(); f._processes_at = 0; f.round()"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert done.stderr.count("run as root with CAP_SYS_PTRACE") == 1, done.stderr


def test_settings_carry_the_names_of_the_sematext_agent() -> None:
    settings = load_settings(
        HostSettings,
        {
            "PKG_INTERVAL": "5m",
            "PKG_CONTAINER_ENABLED": "false",
            "PKG_KINDS": "deb, node",
            "PKG_PATHS": "/srv/app",
        },
    )
    assert (settings.pkg_interval, settings.pkg_container_enabled) == (300, False)
    assert (settings.pkg_kinds, settings.pkg_paths) == (("deb", "node"), ("/srv/app",))
    with pytest.raises(SettingsError, match=r"^PKG_INTERVAL=0\.5s: is below a second; "):
        load_settings(HostSettings, {"PKG_INTERVAL": "500ms"})
    with pytest.raises(SettingsError, match="PKG_KINDS=pip"):
        load_settings(HostSettings, {"PKG_KINDS": "pip"})


async def test_a_host_root_that_is_not_there_is_one_clear_line() -> None:
    with pytest.raises(SettingsError, match=r"^HOST_ROOT=/nowhere: no such directory; mount"):
        async with Run("/nowhere"):
            logging.info("never here")
