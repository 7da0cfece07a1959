"""The reader of dpkg's database (deb): `var/lib/dpkg/status`, and its one-file-a-package form.

The status file is replaced by a rename, several times in one run of apt. In between packages are in
states that are neither installed nor removed: only the third word of `Status:` counts, and only
where it is final (deb822(5), dpkg(1) "Package states"). A package in between keeps what it was.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.host_collector.packages.inventory import Package, RootScan

_INSTALLED = frozenset((b"installed", b"triggers-awaited", b"triggers-pending"))
_IN_BETWEEN = frozenset((b"unpacked", b"half-configured", b"half-installed"))
_ABSENT = frozenset((b"not-installed", b"config-files"))
_FIELDS = frozenset((b"Package", b"Status", b"Version", b"Architecture", b"Multi-Arch"))

Stanza = dict[bytes, bytes]


def fingerprint(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return numbers that change with the database; empty where there is none."""
    return tree.fingerprint(f"{path}/status")


def scan(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages that are installed, by the database in the directory `path`.

    Args:
        tree: the file system.
        path: the directory of the database.
        before: the stored inventory; a package that dpkg is working on keeps its entry.
        now_ns: not used.

    Raises:
        OSError: the database cannot be read.
        UnreadableError: it is damaged.
    """
    status = tree.stat(f"{path}/status")
    previous: dict[tuple[str, str], list[Package]] = {}
    for package in before:
        previous.setdefault((package.name, package.architecture), []).append(package)
    packages: list[Package] = []
    for stanza in parse_stanzas(tree.read(f"{path}/status")):
        name, architecture = _text(stanza, b"Package"), _text(stanza, b"Architecture")
        state = stanza.get(b"Status", b"").rpartition(b" ")[2]
        unchanged = previous.pop((name, architecture), [])
        if state in _INSTALLED:
            stamp = _stamp(tree, path, name, architecture, stanza.get(b"Multi-Arch") == b"same")
            version = _text(stanza, b"Version")
            if not version:
                raise UnreadableError(f"/{path}/status gives {name} no version")
            packages.append(Package(name, version, architecture, stamp))
        elif state in _IN_BETWEEN:
            packages += unchanged
        elif state not in _ABSENT:
            raise UnreadableError(f"/{path}/status gives {name} no state that dpkg knows")
    # dpkg deletes a package's list before it forgets the package. A package that the database does
    # not even mention, and whose list still exists, was lost with a part of the file.
    present = {package.name for package in packages}
    for name, architecture in previous:
        if name not in present and _stamp(tree, path, name, architecture):
            raise UnreadableError(f"/{path}/status is damaged: it has lost {name}")
    return RootScan(tuple(packages), status.st_mtime_ns if status else 0)


def parse_stanzas(content: bytes) -> Iterator[Stanza]:
    """Yield of each stanza the fields that matter here.

    Raises:
        UnreadableError: the content does not end with a whole line, or is no text.
    """
    if content and (not content.endswith(b"\n") or b"\0" in content):
        raise UnreadableError("a database of dpkg is cut off or holds zeros")
    stanza: Stanza = {}
    for line in io.BytesIO(content):
        if line == b"\n":
            if stanza:
                yield _checked(stanza)
                stanza = {}
        elif line[0] not in b" \t":
            field, _, value = line.partition(b":")
            if field in _FIELDS:
                stanza[field] = value.strip()
    if stanza:
        yield _checked(stanza)


def _checked(stanza: Stanza) -> Stanza:
    if b"Package" not in stanza:
        raise UnreadableError("a database of dpkg holds a stanza without a package")
    return stanza


def _text(stanza: Stanza, field: bytes) -> str:
    return stanza.get(field, b"").decode(errors="replace")


def _stamp(
    tree: FileTree, path: str, name: str, architecture: str, is_multiarch: bool = False
) -> int:
    """Return when the package's list of files was written, which each unpacking does; 0 if never.

    A package that may be installed for several architectures at once has its own in its list's
    name.
    """
    names = [f"{name}.list", f"{name}:{architecture}.list"]
    for list_name in reversed(names) if is_multiarch else names:
        if (status := tree.stat(f"{path}/info/{list_name}")) is not None:
            return status.st_ctime_ns
    return 0


def fingerprint_folder(tree: FileTree, path: str) -> tuple[int, ...]:
    """Return the same as `fingerprint` for a directory with one file a package."""
    return tree.fingerprint(path)


def scan_folder(tree: FileTree, path: str, before: tuple[Package, ...], now_ns: int) -> RootScan:
    """Return the packages in a directory with one file a package, as images without dpkg have it.

    Raises:
        OSError, UnreadableError: as `scan`.
    """
    packages: list[Package] = []
    for name in tree.names(path):
        if name.startswith(".") or name.endswith(".md5sums"):
            continue
        status = tree.stat(f"{path}/{name}")
        for stanza in parse_stanzas(tree.read(f"{path}/{name}").rstrip(b"\n") + b"\n\n"):
            stamp = status.st_ctime_ns if status else 0
            version, architecture = _text(stanza, b"Version"), _text(stanza, b"Architecture")
            packages.append(Package(_text(stanza, b"Package"), version, architecture, stamp))
    folder = tree.stat(path)
    return RootScan(tuple(packages), folder.st_mtime_ns if folder else 0)
