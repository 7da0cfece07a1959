"""A small file system of its own, which a test can fill."""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

DISK_MEBIBYTES = 400
"""Enough for the streams of the agent at their smallest."""


class SmallDisk:
    """A mounted tmpfs."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def fill(self) -> None:
        """Leave no byte free, as somebody else's file would."""
        for size in (1024 * 1024, 4096):
            waste = (self.path / f"waste{size}").open("wb", buffering=0)
            with waste, contextlib.suppress(OSError):
                while True:
                    waste.write(bytes(size))

    def make_room(self) -> None:
        """Remove what filled the disk."""
        for file in self.path.glob("waste*"):
            file.unlink()


@contextlib.contextmanager
def mount_small_disk(path: Path) -> Iterator[SmallDisk | None]:
    """Mount a small disk at `path`; yield None where this may not be done."""
    path.mkdir(exist_ok=True)
    mount = ("mount", "-t", "tmpfs", "-o", f"size={DISK_MEBIBYTES}m,mode=777", "tmpfs", str(path))
    if os.geteuid() or subprocess.run(mount, capture_output=True).returncode:
        yield None
        return
    try:
        yield SmallDisk(path)
    finally:
        subprocess.run(("umount", "-l", str(path)), check=True)
