"""Whether a package manager holds its lock: the sign that it is still at work."""

from __future__ import annotations

import fcntl
import os
import struct

from sematext_agent.host_collector.packages.tree import Forbidden, Tree, Unreadable

# struct flock of 64-bit Linux: l_type, l_whence, l_start, l_len, l_pid.
_FLOCK = struct.Struct("hhqqi4x")


def is_locked(tree: Tree, path: str) -> bool:
    """Whether another process holds a POSIX lock on the file `path`.

    F_GETLK only asks, and a descriptor that is open for reading is enough. Where the file is
    missing, or the system does not tell, nothing is known to hold it.
    """
    try:
        fd = tree.open(path)
    except Forbidden:
        return _is_listed(tree, path)
    except (OSError, Unreadable):
        return False
    try:
        asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
        answer = fcntl.fcntl(fd, fcntl.F_GETLK, asked)
        kind: int = _FLOCK.unpack(answer)[0]
        return kind != fcntl.F_UNLCK
    finally:
        os.close(fd)


def _is_listed(tree: Tree, path: str) -> bool:
    """The same by /proc/locks, see proc(5), for who may not open the file: dpkg's is root's."""
    try:
        found = tree.stat(path)
        lines = tree.read("proc/locks").decode(errors="replace").splitlines()
    except (OSError, Unreadable):
        return False
    if found is None:
        return False
    file = f"{os.major(found.st_dev):02x}:{os.minor(found.st_dev):02x}:{found.st_ino}"
    return any(" POSIX " in line and file in line.split() for line in lines)
