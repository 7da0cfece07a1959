"""Reads the database of dpkg (deb): `var/lib/dpkg/status`, and its one-file-a-package form.

The status file is replaced by a rename, several times in one run of apt. In between packages pass
through states that are neither here nor there: only the third word of `Status:` counts, and only
where it is an end (deb822(5), dpkg(1) "Package states"). A package under way keeps what it was.
"""

from __future__ import annotations

import io
from collections.abc import Iterator

from sematext_agent.host_collector.packages.inventory import Look, Package
from sematext_agent.host_collector.packages.locks import is_locked
from sematext_agent.host_collector.packages.tree import Tree, Unreadable

_INSTALLED = frozenset((b"installed", b"triggers-awaited", b"triggers-pending"))
_UNDER_WAY = frozenset((b"unpacked", b"half-configured", b"half-installed"))
_ABSENT = frozenset((b"not-installed", b"config-files"))
_FIELDS = frozenset((b"Package", b"Status", b"Version", b"Architecture", b"Multi-Arch"))

Stanza = dict[bytes, bytes]


def busy(tree: Tree, path: str) -> bool:
    """Whether dpkg or apt is at work: either holds its lock meanwhile."""
    return is_locked(tree, f"{path}/lock") or is_locked(tree, f"{path}/lock-frontend")


def mark(tree: Tree, path: str) -> tuple[int, ...]:
    """What changes with every change of the database; empty where there is none."""
    return tree.mark(f"{path}/status")


def read(tree: Tree, path: str, before: tuple[Package, ...]) -> Look:
    """The packages that are installed, by the database in the directory `path`.

    Args:
        before: what was installed at the last look; what dpkg is working on keeps it.

    Raises:
        OSError: the database cannot be read.
        Unreadable: it is damaged.
    """
    status = tree.stat(f"{path}/status")
    data = tree.read(f"{path}/status")
    known: dict[tuple[str, str], list[Package]] = {}
    for package in before:
        known.setdefault((package.name, package.architecture), []).append(package)
    packages: list[Package] = []
    for stanza in stanzas(data):
        name, architecture = _text(stanza, b"Package"), _text(stanza, b"Architecture")
        state = stanza.get(b"Status", b"").rpartition(b" ")[2]
        kept = known.pop((name, architecture), [])
        if state in _INSTALLED:
            stamp = _stamp(tree, path, name, architecture, stanza.get(b"Multi-Arch") == b"same")
            version = _text(stanza, b"Version")
            if not version:
                raise Unreadable(f"/{path}/status gives {name} no version")
            packages.append(Package(name, version, architecture, stamp))
        elif state in _UNDER_WAY:
            packages += kept
        elif state not in _ABSENT:
            raise Unreadable(f"/{path}/status gives {name} no state that dpkg knows")
    # dpkg deletes a package's list before it forgets the package. Packages that the database does
    # not even mention, and whose lists are still there, were lost with a part of the file.
    present = {package.name for package in packages}
    for name, architecture in known:
        if name not in present and _stamp(tree, path, name, architecture):
            raise Unreadable(f"/{path}/status is damaged: it has lost {name}")
    return Look(tuple(packages), status.st_mtime_ns if status else 0)


def stanzas(data: bytes) -> Iterator[Stanza]:
    """The fields of each stanza that matter here.

    Raises:
        Unreadable: the text does not end with a stanza, or holds what no text does.
    """
    if data and (not data.endswith(b"\n") or b"\0" in data):
        raise Unreadable("a database of dpkg is cut off or holds zeros")
    stanza: Stanza = {}
    for line in io.BytesIO(data):
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
        raise Unreadable("a database of dpkg holds a stanza without a package")
    return stanza


def _text(stanza: Stanza, field: bytes) -> str:
    return stanza.get(field, b"").decode(errors="replace")


def _stamp(tree: Tree, path: str, name: str, architecture: str, several: bool = False) -> int:
    """When the package's list of files was written, which each unpacking does; 0 without one.

    Args:
        several: whether the package may be installed for several architectures at once; the list's
            name then says which.
    """
    names = [f"{name}.list", f"{name}:{architecture}.list"]
    for list_name in reversed(names) if several else names:
        if (found := tree.stat(f"{path}/info/{list_name}")) is not None:
            return found.st_ctime_ns
    return 0


def mark_folder(tree: Tree, path: str) -> tuple[int, ...]:
    """As `mark`, for a directory with one file a package."""
    return tree.mark(path)


def read_folder(tree: Tree, path: str, before: tuple[Package, ...]) -> Look:
    """The packages in a directory with one file a package, as images without dpkg have it.

    Raises:
        OSError, Unreadable: as `read`.
    """
    packages: list[Package] = []
    for name in tree.names(path):
        if name.startswith(".") or name.endswith(".md5sums"):
            continue
        found = tree.stat(f"{path}/{name}")
        for stanza in stanzas(tree.read(f"{path}/{name}").rstrip(b"\n") + b"\n\n"):
            stamp = found.st_ctime_ns if found else 0
            version, architecture = _text(stanza, b"Version"), _text(stanza, b"Architecture")
            packages.append(Package(_text(stanza, b"Package"), version, architecture, stamp))
    folder = tree.stat(path)
    return Look(tuple(packages), folder.st_mtime_ns if folder else 0)
