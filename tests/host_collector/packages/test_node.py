"""Node: real npm, global and in a project, and the trees that other tools leave."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import pytest
from package_managers import Npm
from package_run import Run

from sematext_agent.host_collector.packages import node
from sematext_agent.host_collector.packages.tree import Unreadable, tree_at


async def test_global_packages_are_told_from_the_first_on(tmp_path: Path) -> None:
    """The directory of global packages does not even exist before; scoped names count too."""
    npm = Npm(tmp_path / "host/usr/local", tmp_path / "npm")
    npm.prefix.mkdir(parents=True)
    alpha, newer = npm.pack("alpha", "1.0.0"), npm.pack("alpha", "1.1.0")
    scoped = npm.pack("@scope/beta", "2.0.0")
    async with Run(tmp_path / "host") as run:
        await asyncio.to_thread(npm, "install", "-g", alpha)
        assert await run.until_told(1) == ["installed node alpha 1.0.0"]
        await asyncio.to_thread(npm, "install", "-g", scoped)
        assert (await run.until_told(2))[1:] == ["installed node @scope/beta 2.0.0"]
        await asyncio.to_thread(npm, "install", "-g", newer)
        assert (await run.until_told(4))[2:] == [
            "removed node alpha 1.0.0 -> 1.1.0",
            "installed node alpha 1.1.0 <- 1.0.0",
        ]
        await asyncio.to_thread(npm, "install", "-g", "--force", newer)
        await asyncio.to_thread(npm, "rm", "-g", "@scope/beta")
        assert (await run.until_told(5))[4:] == ["removed node @scope/beta 2.0.0"]
        await asyncio.to_thread(npm, "rm", "-g", "alpha")
        assert (await run.until_told(6))[5:] == ["removed node alpha 1.1.0"]
        await asyncio.to_thread(npm, "install", "-g", newer)
        assert (await run.until_told(7))[6:] == ["installed node alpha 1.1.0"]


async def test_a_project_tells_its_whole_tree(tmp_path: Path) -> None:
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
    async with Run(tmp_path / "host", pkg_paths=("/srv/app",)) as run:
        await asyncio.to_thread(npm, "install", beta)
        assert await run.until_told(1) == ["installed node beta 2.0.0"]
        await asyncio.to_thread(npm, "ci")
        await run.quiet(1.8)
        await asyncio.to_thread(npm, "install", newer)
        assert (await run.until_told(3))[1:] == [
            "removed node alpha 1.0.0 -> 1.1.0",
            "installed node alpha 1.1.0 <- 1.0.0",
        ]
        await asyncio.to_thread(npm, "uninstall", "beta")
        assert (await run.until_told(4))[3:] == ["removed node beta 2.0.0"]


def test_a_lock_counts_each_version_once_and_leaves_links_out(tmp_path: Path) -> None:
    packages = {
        "node_modules/a": {"version": "1.0.0"},
        "node_modules/@s/b": {"version": "2.0.0"},
        "node_modules/@s/b/node_modules/a": {"version": "0.9.0"},
        "node_modules/c/node_modules/a": {"version": "0.9.0"},
        "node_modules/ws": {"resolved": "packages/ws", "link": True},
        "packages/ws": {},
    }
    lock = tmp_path / node.LOCK
    lock.write_text(json.dumps({"lockfileVersion": 3, "packages": packages}))
    with tree_at(str(tmp_path)) as tree:
        found = [(p.name, p.version) for p in node.read_project(tree, ".", ()).packages]
        assert found == [("a", "1.0.0"), ("@s/b", "2.0.0"), ("a", "0.9.0")]
        lock.write_text(lock.read_text()[:-9])
        with pytest.raises(Unreadable, match=r"package-lock\.json"):
            node.read_project(tree, ".", ())


def test_a_damaged_manifest_keeps_what_was_known_and_hides_no_other(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "package.json").write_text(json.dumps({"version": "1.0.0"}))
    (tmp_path / ".a-x1Y2z3W4").mkdir()
    with tree_at(str(tmp_path)) as tree:
        before = node.read_folder(tree, ".", ())
        assert before.unfinished
        (tmp_path / ".a-x1Y2z3W4").rmdir()
        (tmp_path / "a/package.json").write_text("{")
        (tmp_path / "b/package.json").write_text(json.dumps({"version": "1.0.1"}))
        look = node.read_folder(tree, ".", before.packages)
    assert {p.name: p.version for p in look.packages} == {"a": "1.0.0", "b": "1.0.1"}
    assert not look.unfinished
