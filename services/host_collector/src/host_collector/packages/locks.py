"""Whether a package manager holds its lock: the sign that it is still at work."""

from __future__ import annotations

import fcntl
import os
import struct

from host_collector.packages.tree import Tree, Unreadable

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")


def is_locked(tree: Tree, path: str) -> bool:
    """Whether another process holds a POSIX lock on the file `path`.

    F_GETLK only asks, and a descriptor that is open for reading is enough. Where the file is
    missing or may not be opened, nothing is known to hold it.
    """
    try:
        fd = tree.open(path)
    except (OSError, Unreadable):
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(fd)
