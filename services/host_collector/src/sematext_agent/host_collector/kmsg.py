"""The kernel's log: /dev/kmsg, one record a read, followed without a thread and without polling.

The format is the kernel's Documentation/ABI/testing/dev-kmsg:

    3,1243,1878084160,-;Killed process 1836 (tail) total-vm:…
    │ │    │          │
    │ │    │          └ `-`; `c` or `+` continue the record before; further fields are skipped
    │ │    └ microseconds on the clock of printk, which starts at boot and stands still in suspend
    │ └ sequence number, from 0 at every boot
    └ facility * 8 + level; facility 0 is the kernel, and nobody in user space can write as it

Control characters, `\\` and bytes beyond ASCII are escaped as `\\xNN` by the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import msgspec
from msgspec import structs

_RECORD_BYTES_MAX = 8192
"""The kernel's own bound (CONSOLE_EXT_LOG_MAX); a smaller buffer would fail with EINVAL."""
_READ_RECORDS_MAX = 512
_DEVICE = os.makedev(1, 11)
_escape = re.compile(rb"\\x([0-9a-f]{2})")


class Record(msgspec.Struct, frozen=True):
    """One record of the kernel's log."""

    sequence: int
    time: int
    """When it was written: nanoseconds since the epoch."""
    facility: int
    continued: bool
    """True for a piece of a line that the kernel could not write as one."""
    text: str
    """Printable ASCII, escaped as the kernel escapes; see `unescape`."""


def parse(raw: bytes, boot_ns: int) -> Record:
    """The record in what one read returned; `boot_ns` is when its clock was 0, since the epoch.

    Raises:
        ValueError: it is not a record of the kernel's log.
    """
    head, semicolon, tail = raw.partition(b";")
    fields = head.split(b",")
    if len(fields) < 4 or not semicolon:
        raise ValueError(f"not a record of the kernel's log: {raw[:80]!r}")
    # The lines after the first are a device's properties, ` SUBSYSTEM=net`.
    text = tail.partition(b"\n")[0].decode("ascii", "backslashreplace")
    return Record(
        sequence=int(fields[1]),
        time=boot_ns + int(fields[2]) * 1000,
        facility=int(fields[0]) >> 3,
        continued=fields[3] in (b"c", b"+"),
        text=text,
    )


def unescape(text: str) -> str:
    """The text as it was before the kernel escaped it; bytes that are not UTF-8 stay escaped."""
    raw = _escape.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return raw.decode("utf-8", "backslashreplace")


def boot_id() -> str:
    """Names this boot of the kernel; the same inside every container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_device(paths: Iterable[str]) -> int:
    """A descriptor of the first path that is the kernel's log and can be read.

    Raises:
        OSError: of the first path, where none can.
    """
    problem: OSError | None = None
    for path in paths:
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError as error:
            problem = problem or error
            continue
        status = os.fstat(descriptor)
        if stat.S_ISCHR(status.st_mode) and status.st_rdev == _DEVICE:
            return descriptor
        # Some containers are given a link to /dev/null or to their console under this name.
        os.close(descriptor)
        problem = problem or OSError(errno.ENODEV, "it is not the kernel's log", path)
    assert problem is not None
    raise problem


class KernelLog:
    """Reads the kernel's log from its oldest record on. Owns the descriptor that it is given."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._boot_ns = time.time_ns() - time.clock_gettime_ns(time.CLOCK_MONOTONIC)
        self._live = False
        self.drained = False
        """True where the last `read` took all there was."""
        self.malformed = 0
        """How many reads did not return a record."""

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)

    def read(self) -> list[Record]:
        """The next records, without waiting: all there are, but no more than a bounded number.

        Records that were overwritten before they were read show as a jump in `sequence`.
        """
        records: list[Record] = []
        self.drained = False
        while len(records) < _READ_RECORDS_MAX:
            try:
                raw = os.read(self._descriptor, _RECORD_BYTES_MAX)
            except BlockingIOError:
                self.drained = True
                break
            except BrokenPipeError:
                continue  # overwritten; the next read goes on at the oldest record there is
            if not raw:
                raise OSError("the kernel's log ended, which it never does")
            try:
                records.append(parse(raw, self._boot_ns))
            except ValueError:
                self.malformed += 1
        return self._set_right(records)

    def _set_right(self, records: list[Record]) -> list[Record]:
        """The records with their times corrected by the last of them, which is the newest.

        The clock of printk is not disciplined and is minutes off after months. A record that is
        seen being written is of this moment, and none is from the future.
        """
        if not records:
            return records
        ahead = records[-1].time - time.time_ns()
        if ahead > 0 or self._live:
            self._boot_ns -= ahead
            records = [structs.replace(record, time=record.time - ahead) for record in records]
        self._live = False
        return records

    async def wait(self, stopped: asyncio.Future[Any], seconds: float) -> None:
        """Waits until there is a record, `stopped` is done, or `seconds` have passed."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        began = loop.time()
        loop.add_reader(self._descriptor, readable.set)
        waiting = asyncio.create_task(readable.wait())
        try:
            await asyncio.wait(
                (waiting, stopped), timeout=seconds, return_when=asyncio.FIRST_COMPLETED
            )
        finally:
            # Left in place, it would fire for as long as nobody reads.
            loop.remove_reader(self._descriptor)
            waiting.cancel()
        # A process that was frozen meanwhile cannot know when the record was written.
        frozen = loop.time() - began > seconds + 1
        self._live = self.drained and readable.is_set() and not frozen
