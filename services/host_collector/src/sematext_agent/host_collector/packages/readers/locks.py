"""The locks of package managers, which show that they are at work."""

from __future__ import annotations

import fcntl
import os
import struct

from sematext_agent.host_collector.file_tree import FileTree, ForbiddenError, UnreadableError

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")


def is_locked(tree: FileTree, path: str) -> bool:
    """Return whether another process holds a POSIX lock on the file `path`.

    F_GETLK only asks, for which a descriptor that is open for reading is enough. A file that does
    not exist, or whose lock cannot be read, counts as not locked.
    """
    try:
        fd = tree.open_file(path)
    except ForbiddenError:
        return _is_listed(tree, path)
    except (OSError, UnreadableError):
        return False
    try:
        request = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, request)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(fd)


def _is_listed(tree: FileTree, path: str) -> bool:
    """Do the same by /proc/locks, see proc(5), without opening the file: dpkg's is root's."""
    try:
        status = tree.stat(path)
        lines = tree.read("proc/locks").decode(errors="replace").splitlines()
    except (OSError, UnreadableError):
        return False
    if status is None:
        return False
    file = f"{os.major(status.st_dev):02x}:{os.minor(status.st_dev):02x}:{status.st_ino}"
    return any(" POSIX " in line and file in line.split() for line in lines)
