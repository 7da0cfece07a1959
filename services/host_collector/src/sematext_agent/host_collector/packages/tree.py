"""A file system as one of its own processes sees it: the host's, or that of a running container.

Everything is read through `Tree`, relative to its root, so that no link leads out of it (see
`resolving`), nothing is ever written, and one odd file cannot cost more than a bound.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from errno import EACCES, ELOOP, ENAMETOOLONG, ENXIO, EPERM
from fnmatch import fnmatchcase
from itertools import islice

from sematext_agent.host_collector.packages.resolving import READ, open_below

FILE_BYTES_MAX = 64 * 1024 * 1024
ENTRIES_MAX = 500_000
"""How many names of one directory are looked at."""


# What is wrong with one file alone. Other errors tell of the file system, or of this process.
_ODD = frozenset((EACCES, ELOOP, ENAMETOOLONG, ENXIO, EPERM))


class Unreadable(Exception):  # noqa: N818 - it reads better than with a suffix
    """What is there cannot be understood now. It never means that packages were removed."""


class Forbidden(Unreadable):
    """This process has no right to it."""


class Tree:
    """Read-only access below an open directory. Paths are relative to it: `var/lib/dpkg`."""

    def __init__(self, root: int) -> None:
        self.root = root
        """A descriptor of the directory; whoever made it closes it."""

    def stat(self, path: str) -> os.stat_result | None:
        """What `path` is, or None where there is nothing. Raises OSError or Unreadable."""
        try:
            fd = self._open(path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def mark(self, path: str) -> tuple[int, ...]:
        """What changes whenever the file or directory `path` does; empty where there is none."""
        found = self.stat(path)
        if found is None:
            return ()
        return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns

    def inode(self, path: str) -> tuple[int, int] | None:
        """What tells the file or directory `path` from others, whatever path leads to it."""
        try:
            found = self.stat(path)
        except (OSError, Unreadable):
            return None
        return (found.st_dev, found.st_ino) if found else None

    def _open(self, path: str, flags: int) -> int:
        try:
            return open_below(self.root, path, flags)
        except OSError as error:
            if error.errno in _ODD:
                kind = Forbidden if error.errno == EACCES else Unreadable
                raise kind(f"/{path}: {error.strerror}") from error
            raise

    def open(self, path: str) -> int:
        """A descriptor of the regular file `path`, for reading. Raises OSError or Unreadable."""
        fd = self._open(path, READ)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise Unreadable(f"/{path} is no regular file")

    def read(self, path: str, bytes_max: int = FILE_BYTES_MAX) -> bytes:
        """The contents of the regular file `path`, whole.

        Raises:
            OSError: it is not there, or cannot be read.
            Unreadable: it is no file, or larger than `bytes_max`.
        """
        with open(self.open(path), "rb") as file:
            data = file.read(bytes_max + 1)
        if len(data) > bytes_max:
            raise Unreadable(f"/{path} is larger than {bytes_max} bytes")
        return data

    def head(self, path: str, size: int) -> bytes:
        """The first `size` bytes of the regular file `path`."""
        with open(self.open(path), "rb") as file:
            return file.read(size)

    def names(self, path: str) -> list[str]:
        """The names in the directory `path`, sorted; none where there is no such directory.

        A name that is no UTF-8 is left out: no package manager gives one.

        Raises:
            OSError: it cannot be read.
            Unreadable: it may not be read, or holds more than `ENTRIES_MAX` names.
        """
        try:
            fd = self._open(path, os.O_RDONLY | os.O_DIRECTORY)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in islice(entries, ENTRIES_MAX + 1)]
        finally:
            os.close(fd)
        if len(names) > ENTRIES_MAX:
            raise Unreadable(f"/{path} holds more than {ENTRIES_MAX} names")
        return sorted(name for name in names if is_text(name))

    def glob(self, pattern: str) -> list[str]:
        """The directories that `pattern` names: `home/*/.local`. A name with a dot must be asked
        for with its dot. What cannot be read holds nothing."""
        found = [""]
        for part in pattern.split("/"):
            if "*" not in part:
                found = [f"{parent}/{part}" if parent else part for parent in found]
                continue
            found = [
                f"{parent}/{name}" if parent else name
                for parent in found
                for name in self._names_or_none(parent or ".")
                if fnmatchcase(name, part) and not name.startswith(".")
            ]
        return [path for path in found if self.is_folder(path)]

    def _names_or_none(self, path: str) -> list[str]:
        try:
            return self.names(path)
        except (OSError, Unreadable):
            return []

    def is_folder(self, path: str) -> bool:
        """Whether `path` is a directory that can be reached."""
        try:
            found = self.stat(path)
        except (OSError, Unreadable):
            return False
        return found is not None and stat.S_ISDIR(found.st_mode)


def is_text(name: str) -> bool:
    """Whether a name that the system gave can be told: not every one is UTF-8."""
    return name.isascii() or not any("\ud800" <= letter <= "\udfff" for letter in name)


@contextmanager
def tree_at(path: str) -> Iterator[Tree]:
    """The tree whose root is the directory `path` of this process's own file system.

    Raises:
        OSError: `path` is no directory that can be opened.
    """
    root = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        yield Tree(root)
    finally:
        os.close(root)
