"""The reader of a directory of Python packages: site-packages or dist-packages, Python 2 and 3.

A package is installed where it has metadata: `*.dist-info` (PEP 376, PEP 427), `*.egg-info`, which
is a directory or a single file, or `*.egg`. While pip removes something it is called `~…`, and
RECORD is written last, so both show that it is still at work. Only the head of each file is read:
importlib.metadata takes 40 times as long.
"""

from __future__ import annotations

import re

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.host_collector.packages.inventory import Package, RootScan
from sematext_agent.shared.events import NS_PER_SECOND

_LEFTOVER_NS = 60 * NS_PER_SECOND
"""Age from which a directory that pip renamed counts as left behind, and delays nothing."""
_FINISHING_NS = 1_500_000_000
_HEAD_BYTES_MAX = 64 * 1024
_METADATA = {".dist-info": "/METADATA", ".egg-info": "/PKG-INFO", ".egg": "/EGG-INFO/PKG-INFO"}
_field = re.compile(rb"^(Name|Version):[ \t]*(.*?)[ \t\r]*$", re.MULTILINE)
_entry = re.compile(r"(.+?)(?:-(\d[^-]*)(?:-.*)?)?\.(?:dist-info|egg-info|egg)")


def fingerprint(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return numbers that change with the packages in `path`; empty where it does not exist."""
    return tree.fingerprint(path)


def scan(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages in the directory `path`, at the time `now_ns` since the epoch.

    Raises:
        OSError, UnreadableError: it cannot be read.
    """
    folder = tree.stat(path)
    packages: list[Package] = []
    unfinished = False
    for name in tree.names(path):
        suffix = name[name.rfind(".") :]
        if suffix not in _METADATA:
            continue
        changed_ns = tree.change_time_ns(f"{path}/{name}")
        # The absolute value, because the clock may have been set back.
        age_ns = abs(now_ns - changed_ns)
        if name.startswith("~"):
            unfinished |= age_ns < _LEFTOVER_NS
        elif (package := _package(tree, path, name, suffix, changed_ns)) is None:
            unfinished |= age_ns < _FINISHING_NS
        else:
            packages.append(package)
            if suffix == ".dist-info" and age_ns < _FINISHING_NS:
                unfinished |= tree.stat(f"{path}/{name}/RECORD") is None
    return RootScan(tuple(packages), folder.st_mtime_ns if folder else 0, unfinished)


def _package(tree: FileTree, path: str, name: str, suffix: str, changed_ns: int) -> Package | None:
    """Return the package whose metadata is `name`; None where there is no metadata in it (yet)."""
    try:
        head = _read_head(tree, f"{path}/{name}", suffix)
    except FileNotFoundError:
        return None
    except UnreadableError:
        head = b""  # the name of the entry has the package's name, and often its version
    fields = dict(_field.findall(head.replace(b"\r\n", b"\n").partition(b"\n\n")[0]))
    match = _entry.fullmatch(name)
    if match is None:
        return None
    title = fields.get(b"Name", b"").decode(errors="replace") or match[1]
    version = fields.get(b"Version", b"").decode(errors="replace") or match[2] or ""
    return Package(title, version, "", changed_ns)


def _read_head(tree: FileTree, path: str, suffix: str) -> bytes:
    try:
        return tree.read_head(path + _METADATA[suffix], _HEAD_BYTES_MAX)
    except NotADirectoryError:
        # A single file is metadata itself; an egg is an archive, which is not opened.
        return b"" if suffix == ".egg" else tree.read_head(path, _HEAD_BYTES_MAX)
