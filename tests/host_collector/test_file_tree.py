"""No link leads out of a tree: neither with openat2(2) nor with the walk that replaces it."""

from __future__ import annotations

import errno
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sematext_agent.host_collector import file_tree
from sematext_agent.host_collector.file_tree import (
    FileTree,
    UnreadableError,
    open_below,
    open_tree,
    walk_below,
)

WAYS = [pytest.param(open_below, id="openat2"), pytest.param(walk_below, id="walk")]
Open = Callable[..., int]


def _read(way: Open, root: Path, path: str) -> str:
    with open_tree(str(root)) as tree:
        fd = way(tree._root, path)
    with open(fd) as file:
        return file.read()


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Return a tree, beside a file that must never be reached from it."""
    (tmp_path / "root/etc").mkdir(parents=True)
    (tmp_path / "root/etc/hosts").write_text("inside")
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hosts").write_text("outside")
    return tmp_path / "root"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize(
    "target",
    [
        "/etc/hosts",
        "../../../etc/hosts",
        "etc/../../../../etc/hosts",
        "/../etc/hosts",
        "absolute",
        "folder/hosts",
        "//etc//./hosts",
    ],
)
def test_a_link_resolves_below_the_root(way: Open, root: Path, target: str) -> None:
    (root / "absolute").symlink_to("/etc/hosts")
    (root / "folder").symlink_to("/etc")
    (root / "link").symlink_to(target)
    assert _read(way, root, "link") == "inside"


@pytest.mark.parametrize("way", WAYS)
def test_a_path_with_dots_resolves_below_the_root(way: Open, root: Path) -> None:
    assert _read(way, root, "../../etc/hosts") == "inside"
    (root / "deep/er").mkdir(parents=True)
    (root / "deep/up").symlink_to("../../../etc")
    assert _read(way, root, "deep/er/../up/hosts") == "inside"


@pytest.mark.parametrize("way", WAYS)
def test_a_link_to_a_file_that_is_only_outside_leads_nowhere(way: Open, root: Path) -> None:
    (root.parent / "secret").write_text("outside")
    (root / "link").symlink_to(root.parent / "secret")
    with pytest.raises(FileNotFoundError):
        _read(way, root, "link")


@pytest.mark.parametrize("way", WAYS)
def test_a_loop_of_links_ends(way: Open, root: Path) -> None:
    (root / "a").symlink_to("b")
    (root / "b").symlink_to("a")
    with pytest.raises(OSError, match="symbolic links") as raised:
        _read(way, root, "a")
    assert raised.value.errno == errno.ELOOP


def test_the_links_of_procfs_to_open_files_are_not_followed() -> None:
    """A link such as /proc/self/cwd leads anywhere, past every root, when the kernel follows it."""
    with open_tree("/") as tree, pytest.raises(OSError, match="symbolic links"):
        open_below(tree._root, "proc/self/cwd")


def test_a_fifo_holds_nobody_up_and_is_no_file(root: Path) -> None:
    os.mkfifo(root / "status")
    with open_tree(str(root)) as tree:
        with pytest.raises(UnreadableError, match="no regular file"):
            tree.read("status")
        with pytest.raises(UnreadableError, match="no regular file"):
            tree.read("etc")


def test_a_file_over_the_bound_is_not_read(root: Path) -> None:
    (root / "large").write_bytes(b"x" * 100)
    with open_tree(str(root)) as tree:
        assert len(tree.read("large", 100)) == 100
        with pytest.raises(UnreadableError, match="larger than 99"):
            tree.read("large", 99)


def test_without_openat2_the_walk_is_used(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on kernels before 5.6."""
    monkeypatch.setattr(file_tree, "_has_openat2", False)
    monkeypatch.setattr(file_tree, "_openat2", None)
    (root / "link").symlink_to("/etc")
    with open_tree(str(root)) as tree:
        assert tree.read("link/hosts") == b"inside"
        assert tree.glob("l*") == ["link"]
        assert tree.names("link") == ["hosts"]


_names = st.sampled_from(["a", "b", "c", ".", ".."])
_paths = st.lists(_names, min_size=1, max_size=5).map("/".join)
_targets = st.tuples(st.sampled_from(["", "/"]), _paths).map("".join)


@settings(max_examples=150, deadline=None)
@given(st.dictionaries(_paths, _targets, max_size=6), _paths)
def test_both_ways_find_the_same(links: dict[str, str], path: str) -> None:
    """In every tree of links: the same file, or nothing; and never one from outside."""
    if not file_tree._has_openat2:
        pytest.skip("needs openat2(2), Linux 5.6")
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder, "root")
        for folder_path in ("a/b/c", "b/c/a", "c/a/b"):
            (root / folder_path).mkdir(parents=True)
        for link, target in links.items():
            place = root / os.path.normpath(f"/{link}").lstrip("/") / "c"
            if place.parent.is_dir() and not place.exists() and not place.is_symlink():
                place.symlink_to(target)
        with open_tree(str(root)) as tree:
            inodes = [_inode(tree, way, path) for way in (open_below, walk_below)]
        assert inodes[0] == inodes[1]
        inside = {path.lstat().st_ino for path in (root, *root.rglob("*"))}
        assert inodes[0] is None or inodes[0] in inside


def _inode(tree: FileTree, way: Open, path: str) -> int | None:
    try:
        fd = way(tree._root, path, os.O_PATH)
    except OSError:
        return None
    try:
        return os.fstat(fd).st_ino
    finally:
        os.close(fd)
