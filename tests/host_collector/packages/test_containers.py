"""Packages inside running containers, reached through the containers' own roots.

A container here is what the kernel knows of one: a process with its own mount namespace and root,
in a control group that carries the container's id. One test asks a real Docker Engine.
"""

from __future__ import annotations

import asyncio
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from package_managers import run as run_command
from package_managers import tool
from package_run import PackageRun, summarize

from sematext_agent.shared.events import Event, PackageChange

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root to make a container")

_CONTAINER = """
import ctypes, os, signal, sys
libc = ctypes.CDLL(None, use_errno=True)
CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x00020000, 0x4000, 1 << 18
if libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None):
    sys.exit(os.strerror(ctypes.get_errno()))
os.chroot(sys.argv[1])
os.chdir("/")
print("ready", flush=True)
signal.pause()
"""


class FakeContainer:
    """A process in its own mount namespace, root and control group."""

    def __init__(self, root: Path, name: str) -> None:
        self.root = root
        self.id = hashlib.sha256(f"{name}-{os.getpid()}".encode()).hexdigest()
        self._group = _groups() / f"packages-test-{self.id}.scope"
        self._process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        self._group.mkdir(exist_ok=True)
        self._process = subprocess.Popen(
            [
                "/bin/sh",
                "-c",
                'echo $$ > "$0/cgroup.procs"; exec "$@"',
                self._group,
                sys.executable,
                "-c",
                _CONTAINER,
                self.root,
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        assert self._process.stdout.readline() == "ready\n"

    def end(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._group.rmdir()
            self._process = None


def _groups() -> Path:
    """Return a hierarchy of control groups in which a test may make one."""
    for path in ("/sys/fs/cgroup/systemd", "/sys/fs/cgroup/unified", "/sys/fs/cgroup"):
        if Path(path, "cgroup.procs").exists() and os.access(path, os.W_OK):
            return Path(path)
    pytest.skip("needs control groups that can be written, as they cannot in most containers")


@pytest.fixture
def container(tmp_path: Path) -> Iterator[FakeContainer]:
    fake = FakeContainer(tmp_path / "container", tmp_path.name)
    for folder in ("var/lib/dpkg/info", "usr/local/lib"):
        (fake.root / folder).mkdir(parents=True)
    _install(fake.root, "base", "1.0")
    yield fake
    fake.end()


def _install(root: Path, name: str, version: str) -> None:
    """Add a package to a database of dpkg, the way dpkg does it."""
    admin = root / "var/lib/dpkg"
    status = admin / "status"
    (admin / f"info/{name}.list").write_text("/.\n")
    kept = [
        stanza
        for stanza in (status.read_text() if status.exists() else "").split("\n\n")
        if stanza and not stanza.startswith(f"Package: {name}\n")
    ]
    kept.append(
        f"Package: {name}\nStatus: install ok installed\nArchitecture: all\nVersion: {version}"
    )
    (admin / "status-new").write_text("\n\n".join(kept) + "\n\n")
    (admin / "status-new").rename(status)


def _run(*containers: FakeContainer) -> PackageRun:
    """Prepare a run that scans containers only. Others may be running on this machine."""
    return PackageRun(
        "",
        pkg_enabled=False,
        pkg_container_enabled=True,
        baselines=[container.id for container in containers],
    )


def _of(run: PackageRun, container: FakeContainer) -> list[Event]:
    def is_from_it(event: Event) -> bool:
        return isinstance(event.body, PackageChange) and event.body.container_id == container.id

    return [event for event in run.events if is_from_it(event)]


@needs_root
async def test_a_change_in_a_container_names_the_container(container: FakeContainer) -> None:
    """Its packages are a baseline when it is first seen; changes are events with its id."""
    container.start()
    async with _run(container) as run:
        _install(container.root, "added", "2.0")
        await run.until(lambda: len(_of(run, container)) == 1, seconds=2)
        await run.pass_time()
        (event,) = _of(run, container)
        assert summarize(event) == "installed deb added 2.0"


@needs_root
async def test_a_container_that_starts_later_has_a_baseline_and_then_events(
    container: FakeContainer, tmp_path: Path
) -> None:
    """One that is restarted emits what changed meanwhile; the first package of a kind too."""
    async with _run() as run:
        container.start()
        await run.until(lambda: container.id in run.baselines, seconds=6)
        _install(container.root, "base", "1.1")
        await run.until(lambda: len(_of(run, container)) == 2, seconds=2)
        container.end()
        await run.pass_time(1.8)
        _install(container.root, "base", "1.2")
        container.start()
        await run.until(lambda: len(_of(run, container)) == 4, seconds=6)
        modules = container.root / "usr/local/lib/node_modules/alpha"
        modules.mkdir(parents=True)
        (modules / "package.json").write_text('{"version": "3.0.0"}')
        await run.until(lambda: len(_of(run, container)) == 5, seconds=3)
        assert [summarize(event) for event in _of(run, container)] == [
            "removed deb base 1.0 -> 1.1",
            "installed deb base 1.1 <- 1.0",
            "removed deb base 1.1 -> 1.2",
            "installed deb base 1.2 <- 1.1",
            "installed node alpha 3.0.0",
        ]


@needs_root
async def test_no_link_leads_out_of_a_container(container: FakeContainer, tmp_path: Path) -> None:
    """A container that points its database at the host's files shows its own, or nothing."""
    outside = tmp_path / "outside"
    (outside / "var/lib/dpkg/info").mkdir(parents=True)
    _install(outside, "secret", "1.0")
    packages = outside / "packages"
    (packages / "hidden-1.0.dist-info").mkdir(parents=True)
    (packages / "hidden-1.0.dist-info/METADATA").write_text("Name: hidden\nVersion: 1.0\n")
    lib = container.root / "usr/lib"
    lib.mkdir()
    lib = lib / "python3"
    lib.mkdir()
    (lib / "dist-packages").symlink_to(packages)
    modules = container.root / "usr/lib/node_modules"
    modules.mkdir()
    (modules / "evil").symlink_to(Path("../../../../../../../..", outside.relative_to("/")))
    container.start()
    async with _run(container) as run:
        status = container.root / "var/lib/dpkg/status"
        status.unlink()
        status.symlink_to(outside / "var/lib/dpkg/status")
        _install(outside, "secret", "2.0")
        (packages / "hidden-1.0.dist-info").rename(packages / "hidden-2.0.dist-info")
        await run.pass_time(1.8)
        status.unlink()
        _install(container.root, "base", "1.0")
        _install(container.root, "own", "1.0")
        await run.until(lambda: bool(_of(run, container)), seconds=3)
        assert {summarize(event) for event in _of(run, container)} == {"installed deb own 1.0"}


@needs_root
async def test_containers_are_left_alone_when_they_are_not_wanted(container: FakeContainer) -> None:
    container.start()
    (container.root.parent / "host").mkdir()
    async with PackageRun(container.root.parent / "host", pkg_container_enabled=False) as run:
        await run.pass_time(1.8)
        _install(container.root, "added", "2.0")
        await run.pass_time()
        assert run.summaries() == []


IMAGE = "python:3.11-slim-bookworm"


@pytest.fixture
def docker_container() -> Iterator[tuple[str, str]]:
    """Yield the name and the id of a container that the Docker Engine of this machine runs."""
    docker = tool("docker")
    if os.geteuid() != 0:
        pytest.skip("needs root to look into a container")
    if subprocess.run([docker, "image", "inspect", IMAGE], capture_output=True).returncode != 0:
        pytest.skip(f"needs a running Docker Engine and the image {IMAGE}")
    name = f"packages-test-{os.getpid()}"
    command = [docker, "run", "-d", "--rm", "--network=none", "--name", name, IMAGE, "sleep", "600"]
    yield name, subprocess.check_output(command, text=True).strip()
    subprocess.run([docker, "rm", "-f", name], capture_output=True, check=False)


async def test_an_installation_in_a_container_of_docker_has_its_name_and_image(
    docker_container: tuple[str, str],
) -> None:
    """Through an overlay file system; and the container can be removed while it is followed."""
    name, identity = docker_container
    script = (
        "mkdir /p && cd /p && echo 'from setuptools import setup\n"
        'setup(name="alpha", version="1.0")\' > setup.py && python setup.py -q install'
    )
    async with PackageRun(
        "", pkg_enabled=False, pkg_container_enabled=True, baselines=[identity]
    ) as run:
        await asyncio.to_thread(run_command, "docker", "exec", name, "sh", "-c", script)
        await run.until(lambda: "installed python3 alpha 1.0" in run.summaries(), seconds=2)
        body = run.events[run.summaries().index("installed python3 alpha 1.0")].body
        assert isinstance(body, PackageChange)
        assert (body.container_id, body.container_name) == (identity, name)
        assert body.container_image == IMAGE
        await asyncio.to_thread(run_command, "docker", "rm", "-f", name)
        await run.pass_time(1.8)
        assert [text for text in run.summaries() if text.startswith("removed")] == []
