"""Opens files below a directory that is treated as the root, whatever the links in it say.

A container's file system, and a host's that is mounted at a prefix, hold absolute links which mean
the other root, and may hold links set as a trap. openat2(2) with RESOLVE_IN_ROOT resolves every
component below the given directory, in the kernel and without a race. On kernels before 5.6, or
where a seccomp filter forbids the call, the same is done here, one component at a time.
"""

from __future__ import annotations

import ctypes
import errno
import os
import stat

_SYS_OPENAT2 = 437  # the same number on every architecture, see the kernel's syscall tables
_RESOLVE_NO_MAGICLINKS = 0x02
_RESOLVE_IN_ROOT = 0x10
_LINKS_MAX = 40  # as in path_resolution(7)
_RACES_MAX = 16
READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NOCTTY | os.O_NONBLOCK
"""How a file is opened that may turn out to be anything, a terminal or a FIFO."""


class _OpenHow(ctypes.Structure):
    _fields_ = (
        ("flags", ctypes.c_uint64),
        ("mode", ctypes.c_uint64),
        ("resolve", ctypes.c_uint64),
    )


_libc = ctypes.CDLL(None, use_errno=True)
_how_size = ctypes.c_size_t(ctypes.sizeof(_OpenHow))


def open_below(root: int, path: str, flags: int = READ) -> int:
    """A descriptor of `path`, resolved as if the directory `root` were `/`.

    Never blocks on a FIFO and never opens for writing, whatever `path` turns out to be.

    Args:
        root: an open directory; O_PATH is enough.
        path: relative, `var/lib/dpkg/status`; `.` is the root itself.

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
        # The kernel answers EAGAIN where something was renamed while it went through a `..`.
        if error not in (errno.EAGAIN, errno.EINTR):
            break
    raise OSError(error, os.strerror(error), path)


def walk_below(root: int, path: str, flags: int = READ) -> int:
    """The same without openat2(2): no link is ever followed by the kernel."""
    for _ in range(_RACES_MAX):
        try:
            return _walk(root, path, flags)
        except BlockingIOError:
            continue
    raise OSError(errno.EAGAIN, os.strerror(errno.EAGAIN), path)


def _walk(root: int, path: str, flags: int) -> int:
    """One walk. Raises BlockingIOError where a component became a link on the way."""
    todo = _components(path)
    links = 0
    # The directories from the root to where we are: `..` goes back one, never above the first.
    stack = [os.dup(root)]
    try:
        while todo:
            name = todo.pop()
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
                todo += _components(target)
            elif not todo:
                return _reopen(stack[-2], name, fd, flags)
        return os.open(".", flags | os.O_NOFOLLOW, dir_fd=stack[-1])
    finally:
        for fd in stack:
            os.close(fd)


def _components(path: str) -> list[str]:
    """The names in `path`, the last one first."""
    return [name for name in reversed(path.split("/")) if name not in ("", ".")]


def _reopen(folder: int, name: str, seen: int, flags: int) -> int:
    """Opens what was `seen` as `name`, with the wanted flags."""
    fd = os.open(name, flags | os.O_NOFOLLOW, dir_fd=folder)
    if os.path.samestat(os.fstat(fd), os.fstat(seen)):
        return fd
    os.close(fd)
    raise BlockingIOError(errno.EAGAIN, "replaced meanwhile", name)


def _probe() -> bool:
    """Whether this kernel, and what filters its calls, lets us use openat2(2)."""
    root = os.open("/", os.O_PATH | os.O_CLOEXEC)
    try:
        os.close(_openat2(root, ".", os.O_PATH))
    except OSError:
        return False
    finally:
        os.close(root)
    return True


_has_openat2 = _probe()
