"""Read-only access to a file system below a directory that is treated as its root.

A container's file system, and a host's that is mounted at a prefix, hold absolute links which mean
the other root, and may hold links set as a trap. `FileTree` resolves every path below its root, so
that no link leads out of it, never writes, and bounds what one odd file can cost.

openat2(2) with RESOLVE_IN_ROOT resolves paths in the kernel, without a race. On kernels before 5.6,
or where a seccomp filter forbids the call, `walk_below` does the same, one component at a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from fnmatch import fnmatchcase
from itertools import islice

FILE_BYTES_MAX = 64 * 1024 * 1024
ENTRIES_MAX = 500_000
"""Names of one directory that are read."""
READ_FLAGS = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""Flags for opening a file that may turn out to be anything, a terminal or a FIFO."""
_FOLDER_FLAGS = os.O_DIRECTORY | os.O_CLOEXEC
# Errors about one file alone. Others are about the file system, or about this process.
_FILE_ERRORS = frozenset((errno.EACCES, errno.ELOOP, errno.ENAMETOOLONG, errno.ENXIO, errno.EPERM))
_SYS_OPENAT2 = 437  # the same number on every architecture, see the kernel's syscall tables
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_LINKS_MAX = 40  # as in path_resolution(7)
_RACES_MAX = 16


class UnreadableError(Exception):
    """The content cannot be understood now; this never means that packages were removed."""


class ForbiddenError(UnreadableError):
    """This process may not read it."""


class FileTree:
    """Read-only access below an open directory. Paths are relative to it: `var/lib/dpkg`."""

    def __init__(self, root: int) -> None:
        """Use the descriptor `root`, which the caller closes."""
        self._root = root

    def stat(self, path: str) -> os.stat_result | None:
        """Return the status of `path`, or None where there is nothing.

        Raises:
            OSError: the file system cannot be read.
            UnreadableError: `path` cannot be reached.
        """
        try:
            fd = self._open(path, os.O_PATH)
        except (FileNotFoundError, NotADirectoryError):
            return None
        try:
            return os.fstat(fd)
        finally:
            os.close(fd)

    def fingerprint(self, path: str) -> tuple[int, ...]:
        """Return numbers that change whenever the file or directory does; empty where none is.

        Raises:
            OSError, UnreadableError: as `stat`.
        """
        status = self.stat(path)
        if status is None:
            return ()
        return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns

    def inode(self, path: str) -> tuple[int, int] | None:
        """Return device and inode of `path`: the same for every path to it; None if unreachable."""
        try:
            status = self.stat(path)
        except (OSError, UnreadableError):
            return None
        return (status.st_dev, status.st_ino) if status else None

    def change_time_ns(self, path: str) -> int:
        """Return when `path` was put where it is, in nanoseconds since the epoch; 0 if unknown.

        It is the change time, since archives bring their own modification times with them.

        Raises:
            OSError: the file system cannot be read.
        """
        try:
            status = self.stat(path)
        except UnreadableError:
            return 0
        return status.st_ctime_ns if status else 0

    def _open(self, path: str, flags: int) -> int:
        try:
            return open_below(self._root, path, flags)
        except OSError as error:
            if error.errno in _FILE_ERRORS:
                kind = ForbiddenError if error.errno == errno.EACCES else UnreadableError
                raise kind(f"/{path}: {error.strerror}") from error
            raise

    def open_file(self, path: str) -> int:
        """Return a descriptor of the regular file `path`, open for reading.

        Raises:
            OSError: it does not exist, or the file system cannot be read.
            UnreadableError: it is no regular file, or cannot be reached.
        """
        fd = self._open(path, READ_FLAGS)
        if stat.S_ISREG(os.fstat(fd).st_mode):
            return fd
        os.close(fd)
        raise UnreadableError(f"/{path} is no regular file")

    def open_folder(self, path: str) -> int:
        """Return a descriptor of the directory `path` that names it only (O_PATH).

        Raises:
            OSError: there is no such directory, or it cannot be reached.
        """
        return open_below(self._root, path, os.O_PATH | _FOLDER_FLAGS)

    def read(self, path: str, bytes_max: int = FILE_BYTES_MAX) -> bytes:
        """Return the contents of the regular file `path`.

        Raises:
            OSError: it does not exist, or cannot be read.
            UnreadableError: it is no regular file, or larger than `bytes_max`.
        """
        with open(self.open_file(path), "rb") as file:
            content = file.read(bytes_max + 1)
        if len(content) > bytes_max:
            raise UnreadableError(f"/{path} is larger than {bytes_max} bytes")
        return content

    def read_head(self, path: str, size: int) -> bytes:
        """Return the first `size` bytes of the regular file `path`; raises as `open_file`."""
        with open(self.open_file(path), "rb") as file:
            return file.read(size)

    def names(self, path: str) -> list[str]:
        """Return the names in the directory `path`, sorted; none where it does not exist.

        A name that is not UTF-8 is left out: no package manager creates one.

        Raises:
            OSError: it cannot be read.
            UnreadableError: it may not be read, or holds more than `ENTRIES_MAX` names.
        """
        try:
            fd = self._open(path, os.O_RDONLY | _FOLDER_FLAGS)
        except (FileNotFoundError, NotADirectoryError):
            return []
        try:
            with os.scandir(fd) as entries:
                names = [entry.name for entry in islice(entries, ENTRIES_MAX + 1)]
        finally:
            os.close(fd)
        if len(names) > ENTRIES_MAX:
            raise UnreadableError(f"/{path} holds more than {ENTRIES_MAX} names")
        return sorted(name for name in names if is_text(name))

    def glob(self, pattern: str) -> list[str]:
        """Return the directories that match `pattern`, such as `home/*/.local`.

        `*` does not match a leading dot. A directory that cannot be read counts as empty.
        """
        paths = [""]
        for part in pattern.split("/"):
            if "*" not in part:
                paths = [f"{parent}/{part}" if parent else part for parent in paths]
                continue
            paths = [
                f"{parent}/{name}" if parent else name
                for parent in paths
                for name in self._readable_names(parent or ".")
                if fnmatchcase(name, part) and not name.startswith(".")
            ]
        return [path for path in paths if self.is_folder(path)]

    def _readable_names(self, path: str) -> list[str]:
        try:
            return self.names(path)
        except (OSError, UnreadableError):
            return []

    def is_folder(self, path: str) -> bool:
        """Return whether `path` is a directory that can be reached."""
        try:
            status = self.stat(path)
        except (OSError, UnreadableError):
            return False
        return status is not None and stat.S_ISDIR(status.st_mode)


@contextmanager
def open_tree(path: str) -> Iterator[FileTree]:
    """Yield the tree whose root is the directory `path` of this process's own file system.

    Raises:
        OSError: `path` is no directory that can be opened.
    """
    root = os.open(path, os.O_PATH | _FOLDER_FLAGS)
    try:
        yield FileTree(root)
    finally:
        os.close(root)


def is_text(name: str) -> bool:
    """Return whether a name from the system is UTF-8, and so can be part of an event."""
    return name.isascii() or not any("\ud800" <= character <= "\udfff" for character in name)


class _OpenHow(ctypes.Structure):
    """The struct open_how of openat2(2)."""

    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_how_size = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def open_below(root: int, path: str, flags: int = READ_FLAGS) -> int:
    """Return a descriptor of `path`, resolved as if the directory `root` were `/`.

    It never blocks on a FIFO and never opens for writing, whatever `path` turns out to be.

    Args:
        root: a descriptor of an open directory; O_PATH is enough.
        path: relative, such as `var/lib/dpkg/status`; `.` is the root itself.
        flags: as for open(2).

    Raises:
        OSError: as open(2).
    """
    flags |= os.O_CLOEXEC
    if "\0" in path:
        raise FileNotFoundError(errno.ENOENT, "no file has a zero in its name", path)
    if _has_openat2:
        return _openat2(root, path, flags)
    return walk_below(root, path, flags)


def _openat2(root: int, path: str, flags: int) -> int:
    how = _OpenHow(flags, 0, _RESOLVE_IN_ROOT | _RESOLVE_NO_MAGICLINKS)
    name = os.fsencode(path)
    for _ in range(_RACES_MAX):
        fd: int = _libc.syscall(_SYS_OPENAT2, root, name, ctypes.byref(how), _how_size)
        if fd >= 0:
            return fd
        error = ctypes.get_errno()
        # The kernel answers EAGAIN where something was renamed while it resolved a `..`.
        if error not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(error, os.strerror(error), path)


def walk_below(root: int, path: str, flags: int = READ_FLAGS) -> int:
    """Do the same as `open_below` without openat2(2): the kernel never follows a link."""
    for _ in range(_RACES_MAX):
        try:
            return _walk(root, path, flags)
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _walk(root: int, path: str, flags: int) -> int:
    """Walk once; raise BlockingIOError where a component became a link during the walk."""
    remaining = _components(path)
    links = 0
    # The directories from the root to the current one: `..` pops one, never the first.
    stack = [os.dup(root)]
    try:
        while remaining:
            name = remaining.pop()
            if name == "..":
                if len(stack) > 1:
                    os.close(stack.pop())
                continue
            fd = os.open(name, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=stack[-1])
            stack.append(fd)
            if stat.S_ISLNK(os.fstat(fd).st_mode):
                links += 1
                if links > _LINKS_MAX:
                    raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
                target = os.readlink("", dir_fd=fd)
                os.close(stack.pop())
                if target.startswith("/"):
                    while len(stack) > 1:
                        os.close(stack.pop())
                remaining += _components(target)
            elif not remaining:
                return _reopen(stack[-2], name, fd, flags)
        return os.open(".", flags | os.O_NOFOLLOW, dir_fd=stack[-1])
    finally:
        for fd in stack:
            os.close(fd)


def _components(path: str) -> list[str]:
    """Return the names in `path`, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _reopen(folder: int, name: str, expected: int, flags: int) -> int:
    """Open `name` in `folder` with `flags`, if it is still the file open as `expected`."""
    fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    if os.path.samestat(os.fstat(fd), os.fstat(expected)):
        return fd
    os.close(fd)
    raise BlockingIOError(errno.EAGAIN, "replaced during the walk", name)


def _probe_openat2() -> bool:
    """Return whether this kernel, and its filter of system calls, allow openat2(2)."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, ".", os.O_PATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


_has_openat2 = _probe_openat2()
