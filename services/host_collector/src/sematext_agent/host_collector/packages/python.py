"""Reads a directory of Python packages: site-packages or dist-packages, of Python 2 and 3.

What is installed is what has metadata: `*.dist-info` (PEP 376, PEP 427), `*.egg-info`, which is a
directory or a single file, and `*.egg`. While pip removes something it is called `~…`, and RECORD
is written last, so both tell that it is still at work. Only the head of each file is read:
importlib.metadata takes 40 times as long.
"""

from __future__ import annotations

import re
import time

from sematext_agent.host_collector.packages.inventory import Look, Package
from sematext_agent.host_collector.packages.tree import Tree, Unreadable

LEFTOVER_SECONDS = 60
"""A trace of work that is older than this was left behind by it, and holds nothing up."""
_FINISHING_SECONDS = 1.5
_HEAD_BYTES_MAX = 64 * 1024
_METADATA = {".dist-info": "/METADATA", ".egg-info": "/PKG-INFO", ".egg": "/EGG-INFO/PKG-INFO"}
_field = re.compile(rb"^(Name|Version):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_entry = re.compile(r"(.+?)(?:-(\d[^-]*)(?:-.*)?)?\.(?:dist-info|egg-info|egg)")


def mark(tree: Tree, path: str) -> tuple[int, ...]:
    """What changes with every package that comes or goes; empty where there is no directory."""
    return tree.mark(path)


def read(tree: Tree, path: str, before: tuple[Package, ...]) -> Look:
    """The packages in the directory `path`.

    Raises:
        OSError, Unreadable: it cannot be read.
    """
    folder = tree.stat(path)
    packages: list[Package] = []
    unfinished = False
    for name in tree.names(path):
        suffix = name[name.rfind(".") :]
        if suffix not in _METADATA:
            continue
        changed_ns = changed_at(tree, f"{path}/{name}")
        # Also of a time to come: the clock may have been set back since.
        age = abs(time.time() - changed_ns / 1e9)
        if name.startswith("~"):
            unfinished |= age < LEFTOVER_SECONDS
        elif (package := _package(tree, path, name, suffix, changed_ns)) is None:
            unfinished |= age < _FINISHING_SECONDS
        else:
            packages.append(package)
            if suffix == ".dist-info" and age < _FINISHING_SECONDS:
                unfinished |= tree.stat(f"{path}/{name}/RECORD") is None
    return Look(tuple(packages), folder.st_mtime_ns if folder else 0, unfinished)


def changed_at(tree: Tree, path: str) -> int:
    """When `path` was put where it is, in nanoseconds since the epoch; 0 where nothing says so.

    The change time, since archives bring their own time of modification with them.
    """
    try:
        found = tree.stat(path)
    except Unreadable:
        return 0
    return found.st_ctime_ns if found else 0


def _package(tree: Tree, path: str, name: str, suffix: str, changed_ns: int) -> Package | None:
    """The package whose metadata is `name`; None where there is no metadata in it (yet)."""
    try:
        head = _head(tree, f"{path}/{name}", suffix)
    except FileNotFoundError:
        return None
    except Unreadable:
        head = b""  # its name still says what it is
    fields = dict(_field.findall(head.replace(b"\r\n", b"\n").partition(b"\n\n")[0]))
    named = _entry.fullmatch(name)
    if named is None:
        return None
    title = fields.get(b"Name", b"").decode(errors="replace") or named[1]
    version = fields.get(b"Version", b"").decode(errors="replace") or named[2] or ""
    return Package(title, version, "", changed_ns)


def _head(tree: Tree, path: str, suffix: str) -> bytes:
    try:
        return tree.head(path + _METADATA[suffix], _HEAD_BYTES_MAX)
    except NotADirectoryError:
        # A single file is metadata itself; an egg is an archive, which is not opened.
        return b"" if suffix == ".egg" else tree.head(path, _HEAD_BYTES_MAX)
