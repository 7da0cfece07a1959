"""Python 2 and 3: real pip in a virtual environment, and trees as older tools leave them."""

from __future__ import annotations

import asyncio
import os
import shutil
import time
import zipfile
from pathlib import Path

import pytest
from package_managers import Pip, run, tool, wheel
from package_run import PackageRun

from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.packages.inventory import manager_of
from sematext_agent.host_collector.packages.readers import python
from sematext_agent.shared.events import NS_PER_SECOND


@pytest.fixture
def pip(tmp_path: Path) -> Pip:
    """Installs where a host has its own packages."""
    return Pip(tmp_path / "host/usr/local")


async def test_pip_installs_upgrades_and_uninstalls(pip: Pip, tmp_path: Path) -> None:
    """The name is the author's own, and the same package however it is written."""
    old, new = wheel(tmp_path, "Alpha_one", "1.0"), wheel(tmp_path, "alpha_one", "2.0rc1")
    beta = wheel(tmp_path, "beta", "0.1")
    # pip takes the whole directory away with the last package in it.
    pip.install(wheel(tmp_path, "stays", "1.0"))
    async with PackageRun(tmp_path / "host") as run_:
        await asyncio.to_thread(pip.install, old, beta)
        summaries = await run_.expect_events(2)
        assert sorted(summaries) == [
            "installed python3 Alpha_one 1.0",
            "installed python3 beta 0.1",
        ]
        await asyncio.to_thread(pip.install, new)
        assert (await run_.expect_events(4))[2:] == [
            "removed python3 Alpha_one 1.0 -> 2.0rc1",
            "installed python3 alpha_one 2.0rc1 <- 1.0",
        ]
        await asyncio.to_thread(pip.uninstall, "alpha-one", "beta")
        assert len(await run_.expect_events(6)) == 6


async def test_a_version_that_is_removed_and_installed_again_has_new_ids(
    pip: Pip, tmp_path: Path
) -> None:
    """Also where the files are hard links into a cache, whose times are older, as uv makes them."""
    package = wheel(tmp_path, "alpha", "1.0")
    environment = {"UV_CACHE_DIR": str(tmp_path / "cache"), "UV_LINK_MODE": "hardlink"}
    python_of = f"--python={pip.prefix}/bin/python"
    async with PackageRun(tmp_path / "host") as run_:
        for count in range(4):
            arguments = (
                ("uninstall", "alpha")
                if count % 2
                else ("install", "--offline", "--no-deps", str(package))
            )
            uv = tool("uv"), "pip", arguments[0], python_of, *arguments[1:]
            await asyncio.to_thread(run, *uv, **environment)
            await run_.expect_events(count + 1)
        words = [word.split()[0] for word in run_.summaries()]
        assert words == ["installed", "removed", "installed", "removed"]


async def test_a_reinstallation_emits_no_event(pip: Pip, tmp_path: Path) -> None:
    package = wheel(tmp_path, "alpha", "1.0")
    pip.install(package)
    async with PackageRun(tmp_path / "host") as run_:
        await asyncio.to_thread(pip, "install", "--force-reinstall", "--no-index", package)
        await run_.pass_time()
        assert run_.summaries() == []


async def test_an_upgrade_whose_halves_are_far_apart_is_still_one(tmp_path: Path) -> None:
    """Like pip: move the old version aside, unpack for a long time, then delete it."""
    packages = tmp_path / "host/usr/lib/python3/dist-packages"
    _info(packages / "big-1.0.dist-info/METADATA", "big", "1.0")
    async with PackageRun(tmp_path / "host") as run_:
        (packages / "big-1.0.dist-info").rename(packages / "~ig-1.0.dist-info")
        await run_.pass_time()
        _info(packages / "big-2.0.dist-info/METADATA", "big", "2.0")
        await run_.pass_time()
        assert run_.summaries() == []
        shutil.rmtree(packages / "~ig-1.0.dist-info")
        summaries = await run_.expect_events(2)
        assert summaries == ["removed python3 big 1.0 -> 2.0", "installed python3 big 2.0 <- 1.0"]


async def test_metadata_of_python_2_in_every_form(tmp_path: Path) -> None:
    """egg-info as a directory and as a single file, an egg as a directory and as an archive."""
    packages = tmp_path / "host/usr/local/lib/python2.7/dist-packages"
    packages.mkdir(parents=True)
    async with PackageRun(tmp_path / "host") as run_:
        _info(packages / "alpha.egg-info/PKG-INFO", "Alpha", "1.0")
        _info(packages / "beta-2.0-py2.7.egg-info", "beta", "2.0")
        _info(packages / "gamma-3.0-py2.7.egg/EGG-INFO/PKG-INFO", "gamma", "3.0")
        with zipfile.ZipFile(packages / "delta_four-4.0-py2.7.egg", "w") as egg:
            egg.writestr("EGG-INFO/PKG-INFO", "Name: delta_four\nVersion: 4.0\n")
        assert await run_.expect_events(4) == [
            "installed python2 Alpha 1.0",
            "installed python2 beta 2.0",
            "installed python2 delta_four 4.0",
            "installed python2 gamma 3.0",
        ]
        (packages / "beta-2.0-py2.7.egg-info").unlink()
        assert (await run_.expect_events(5))[4:] == ["removed python2 beta 2.0"]


async def test_the_first_package_of_a_user_is_an_event(tmp_path: Path) -> None:
    """`pip install --user` makes the directory, after the baseline, so its package is new.

    An environment that appears as a whole is a baseline.
    """
    (tmp_path / "host/root").mkdir(parents=True)
    async with PackageRun(tmp_path / "host", pkg_interval=2.0) as run_:
        user = tmp_path / "host/root/.local/lib/python3.12/site-packages"
        _info(user / "alpha-1.0.dist-info/METADATA", "alpha", "1.0")
        venv = tmp_path / "host/opt/app/lib/python3.12/site-packages"
        _info(venv / "beta-1.0.dist-info/METADATA", "beta", "1.0")
        assert await run_.expect_events(1, seconds=5) == ["installed python3 alpha 1.0"]
        _info(venv / "gamma-1.0.dist-info/METADATA", "gamma", "1.0")
        assert (await run_.expect_events(2))[1:] == ["installed python3 gamma 1.0"]


async def test_an_environment_that_is_recreated_emits_the_difference(tmp_path: Path) -> None:
    """Deleted, it is not a hundred removals; back again, its events are the difference."""
    venv = tmp_path / "host/opt/app/lib/python3.12/site-packages"
    for name in ("alpha", "beta", "gamma"):
        _info(venv / f"{name}-1.0.dist-info/METADATA", name, "1.0")
    async with PackageRun(tmp_path / "host") as run_:
        venv.parent.rename(tmp_path / "away")
        await run_.pass_time(1.8)
        assert run_.summaries() == []
        _info(venv / "alpha-1.0.dist-info/METADATA", "alpha", "1.0")
        _info(venv / "beta-2.0.dist-info/METADATA", "beta", "2.0")
        assert await run_.expect_events(3, seconds=4) == [
            "removed python3 beta 1.0 -> 2.0",
            "installed python3 beta 2.0 <- 1.0",
            "removed python3 gamma 1.0",
        ]


def _info(path: Path, name: str, version: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f"Metadata-Version: 1.1\r\nName: {name}\r\nVersion: {version}\r\n\r\nName: no\n"
    )
    if path.name == "METADATA":
        (path.parent / "RECORD").touch()


def test_odd_metadata_hides_no_other_package(tmp_path: Path) -> None:
    """A name without a version, a file that is no metadata, a link to nothing.

    The name of the entry counts as far as it goes.
    """
    _info(tmp_path / "alpha-1.0.dist-info/METADATA", "alpha", "1.0")
    (tmp_path / "beta-1.2.3-py3.9.egg-info").write_bytes(b"\xff\xfe\0")
    (tmp_path / "gone-1.0.dist-info").mkdir()
    (tmp_path / "link-1.0.dist-info").symlink_to("/nowhere")
    os.mkfifo(tmp_path / "fifo-1.0.egg-info")
    (tmp_path / "~lpha-0.9.dist-info").mkdir()
    (tmp_path / "__pycache__").mkdir()
    with open_tree(str(tmp_path)) as tree:
        scan = python.scan(tree, ".", (), time.time_ns())
        versions = {package.name: package.version for package in scan.packages}
        assert versions == {"alpha": "1.0", "beta": "1.2.3", "fifo": "1.0"}
        assert scan.unfinished


def test_leftovers_of_pip_from_before_the_clock_was_set_back_delay_nothing(
    tmp_path: Path,
) -> None:
    """Its time is in the future, and the packages beside it are events all the same."""
    (tmp_path / "~lpha-0.9.dist-info").mkdir()
    with open_tree(str(tmp_path)) as tree:
        now_ns = time.time_ns()
        assert python.scan(tree, ".", (), now_ns).unfinished
        assert not python.scan(tree, ".", (), now_ns - 3600 * NS_PER_SECOND).unfinished


def test_which_python_a_directory_belongs_to() -> None:
    assert manager_of("python", "usr/lib/python2.7/dist-packages") == "python2"
    assert manager_of("python", "usr/lib/python3/dist-packages") == "python3"
    assert manager_of("python", "opt/python2tools/lib/python3.9/site-packages") == "python3"
    assert manager_of("python", "venv/lib/pypy2.7/site-packages") == "python2"
