"""Node: real npm, global and in a project, and the trees that other tools leave."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from package_managers import Npm
from package_run import PackageRun

from sematext_agent.host_collector.file_tree import UnreadableError, open_tree
from sematext_agent.host_collector.packages.readers import node


async def test_global_packages_are_events_from_the_first_on(tmp_path: Path) -> None:
    """The directory of global packages does not even exist before; scoped names count too."""
    npm = Npm(tmp_path / "host/usr/local", tmp_path / "npm")
    npm.prefix.mkdir(parents=True)
    alpha, newer = npm.pack("alpha", "1.0.0"), npm.pack("alpha", "1.1.0")
    scoped = npm.pack("@scope/beta", "2.0.0")
    async with PackageRun(tmp_path / "host") as run:
        await asyncio.to_thread(npm, "install", "-g", alpha)
        assert await run.expect_events(1) == ["installed node alpha 1.0.0"]
        await asyncio.to_thread(npm, "install", "-g", scoped)
        assert (await run.expect_events(2))[1:] == ["installed node @scope/beta 2.0.0"]
        await asyncio.to_thread(npm, "install", "-g", newer)
        assert (await run.expect_events(4))[2:] == [
            "removed node alpha 1.0.0 -> 1.1.0",
            "installed node alpha 1.1.0 <- 1.0.0",
        ]
        await asyncio.to_thread(npm, "install", "-g", "--force", newer)
        await asyncio.to_thread(npm, "rm", "-g", "@scope/beta")
        assert (await run.expect_events(5))[4:] == ["removed node @scope/beta 2.0.0"]
        await asyncio.to_thread(npm, "rm", "-g", "alpha")
        assert (await run.expect_events(6))[5:] == ["removed node alpha 1.1.0"]
        await asyncio.to_thread(npm, "install", "-g", newer)
        assert (await run.expect_events(7))[6:] == ["installed node alpha 1.1.0"]


async def test_a_project_emits_its_whole_tree(tmp_path: Path) -> None:
    """By the lock that npm leaves in node_modules; `npm ci` deletes everything in between."""
    project = tmp_path / "host/srv/app"
    project.mkdir(parents=True)
    npm = Npm(project, tmp_path / "npm")
    alpha, newer, beta = (
        npm.pack("alpha", "1.0.0"),
        npm.pack("alpha", "1.1.0"),
        npm.pack("beta", "2.0.0"),
    )
    (project / "package.json").write_text('{"name": "app", "version": "0.1.0"}')
    npm("install", alpha)
    async with PackageRun(tmp_path / "host", pkg_paths=("/srv/app",)) as run:
        await asyncio.to_thread(npm, "install", beta)
        assert await run.expect_events(1) == ["installed node beta 2.0.0"]
        await asyncio.to_thread(npm, "ci")
        await run.pass_time(1.8)
        await asyncio.to_thread(npm, "install", newer)
        assert (await run.expect_events(3))[1:] == [
            "removed node alpha 1.0.0 -> 1.1.0",
            "installed node alpha 1.1.0 <- 1.0.0",
        ]
        await asyncio.to_thread(npm, "uninstall", "beta")
        assert (await run.expect_events(4))[3:] == ["removed node beta 2.0.0"]


def test_a_lock_counts_each_version_once_and_leaves_links_out(tmp_path: Path) -> None:
    packages = {
        "node_modules/a": {"version": "1.0.0"},
        "node_modules/@s/b": {"version": "2.0.0"},
        "node_modules/@s/b/node_modules/a": {"version": "0.9.0"},
        "node_modules/c/node_modules/a": {"version": "0.9.0"},
        "node_modules/ws": {"resolved": "packages/ws", "link": True},
        "packages/ws": {},
    }
    lock = tmp_path / node.LOCK_NAME
    lock.write_text(json.dumps({"lockfileVersion": 3, "packages": packages}))
    with open_tree(str(tmp_path)) as tree:
        scan = node.scan_project(tree, ".", (), 0)
        assert [(p.name, p.version) for p in scan.packages] == [
            ("a", "1.0.0"),
            ("@s/b", "2.0.0"),
            ("a", "0.9.0"),
        ]
        lock.write_text(lock.read_text()[:-9])
        with pytest.raises(UnreadableError, match=r"package-lock\.json"):
            node.scan_project(tree, ".", (), 0)


def test_a_damaged_manifest_keeps_its_package_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text(json.dumps({"version": "1.0.0"}))
    (tmp_path / ".a-x1Y2z3W4").mkdir()
    with open_tree(str(tmp_path)) as tree:
        before = node.scan_folder(tree, ".", (), time.time_ns())
        assert before.unfinished
        (tmp_path / ".a-x1Y2z3W4").rmdir()
        (tmp_path / "a/package.json").write_text("{")
        (tmp_path / "b/package.json").write_text(json.dumps({"version": "1.0.1"}))
        scan = node.scan_folder(tree, ".", before.packages, time.time_ns())
    assert {p.name: p.version for p in scan.packages} == {"a": "1.0.0", "b": "1.0.1"}
    assert not scan.unfinished
