r"""A reader of the kernel's log, /dev/kmsg: one record a read, without a thread or polling.

The format is the kernel's Documentation/ABI/testing/dev-kmsg:

    3,1243,1878084160,-;Killed process 1836 (tail) total-vm:…
    │ │    │          │
    │ │    │          └ `-`; `c` or `+` continue the record before; further fields are skipped
    │ │    └ microseconds on the clock of printk, which starts at boot and stands still in suspend
    │ └ sequence number, from 0 at every boot
    └ facility * 8 + level; facility 0 is the kernel, and nobody in user space can write as it

Control characters, `\` and bytes beyond ASCII are escaped as `\xNN` by the kernel.
"""

from __future__ import annotations

import asyncio
import errno
import os
import re
import stat
from collections.abc import Iterable
from pathlib import Path

import msgspec
from msgspec import structs

from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.waiting import run_until_event, wait_for_event

_RECORD_BYTES_MAX = 8192
"""The kernel's own bound (CONSOLE_EXT_LOG_MAX); a smaller buffer would fail with EINVAL."""
_BATCH_RECORDS_MAX = 512
_DEVICE = os.makedev(1, 11)
_escape = re.compile(rb"\\x([0-9a-f]{2})")


class KernelRecord(msgspec.Struct, frozen=True):
    """One record of the kernel's log."""

    sequence: int
    time: int
    """The time at which it was written, in nanoseconds since the epoch."""
    facility: int
    continued: bool
    """True for a piece of a line that the kernel could not write as one."""
    text: str
    """Printable ASCII, escaped as the kernel escapes; see `unescape`."""


def parse_record(raw: bytes, boot_ns: int) -> KernelRecord:
    """Return the record in `raw`, which is what one read returned.

    Args:
        raw: one record in the format of /dev/kmsg.
        boot_ns: when the clock of printk was 0, in nanoseconds since the epoch.

    Raises:
        ValueError: it is not a record of the kernel's log.
    """
    head, semicolon, tail = raw.partition(b";")
    fields = head.split(b",")
    if len(fields) < 4 or not semicolon:
        raise ValueError(f"not a record of the kernel's log: {raw[:80]!r}")
    # The lines after the first are a device's properties, ` SUBSYSTEM=net`.
    text = tail.partition(b"\n")[0].decode("ascii", "backslashreplace")
    return KernelRecord(
        sequence=int(fields[1]),
        time=boot_ns + int(fields[2]) * 1000,
        facility=int(fields[0]) >> 3,
        continued=fields[3] in (b"c", b"+"),
        text=text,
    )


def unescape(text: str) -> str:
    """Return the text before the kernel escaped it; bytes that are not UTF-8 stay escaped."""
    raw = _escape.sub(lambda match: bytes.fromhex(match[1].decode()), text.encode())
    return raw.decode("utf-8", "backslashreplace")


def read_boot_id() -> str:
    """Return the id of this boot of the kernel, the same inside every container."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def open_device(paths: Iterable[str]) -> int:
    """Return a descriptor of the first path that is the kernel's log and can be read.

    Raises:
        OSError: none can be read; the error is the one of the first path.
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
        # Some containers have a link to /dev/null or to their console under this name.
        os.close(descriptor)
        problem = problem or OSError(errno.ENODEV, "it is not the kernel's log", path)
    assert problem is not None
    raise problem


class KernelLogReader:
    r"""A reader of the kernel's log from its oldest record on, in batches."""

    def __init__(self, descriptor: int, clock: Clock = SYSTEM_CLOCK) -> None:
        """Take ownership of the `descriptor` of the device, open without blocking."""
        self._descriptor = descriptor
        self._clock = clock
        self._boot_ns = clock.wall_ns() - int(clock.monotonic() * NS_PER_SECOND)
        self._is_live = False
        self.is_drained = False
        """True where the last `read` returned all that was there."""
        self.malformed_records = 0

    def close(self) -> None:
        """Close the descriptor."""
        os.close(self._descriptor)

    def read(self) -> list[KernelRecord]:
        """Return the next batch of records, without waiting.

        Records that were overwritten before they were read show as a jump in `sequence`.

        Raises:
            OSError: the log cannot be read any more.
        """
        records: list[KernelRecord] = []
        self.is_drained = False
        while len(records) < _BATCH_RECORDS_MAX:
            try:
                raw = os.read(self._descriptor, _RECORD_BYTES_MAX)
            except BlockingIOError:
                self.is_drained = True
                break
            except BrokenPipeError:
                continue  # overwritten; the next read goes on at the oldest record there is
            if not raw:
                raise OSError("the kernel's log ended, which it never does")
            try:
                records.append(parse_record(raw, self._boot_ns))
            except ValueError:
                self.malformed_records += 1
        return self._correct_times(records)

    def _correct_times(self, records: list[KernelRecord]) -> list[KernelRecord]:
        """Return the records with their times corrected by the last of them, the newest.

        The clock of printk is not disciplined and is minutes off after months. A record that
        arrived during `wait` was written now, and none is from the future.
        """
        if not records:
            return records
        ahead = records[-1].time - self._clock.wall_ns()
        if ahead > 0 or self._is_live:
            self._boot_ns -= ahead
            records = [structs.replace(record, time=record.time - ahead) for record in records]
        self._is_live = False
        return records

    async def wait(self, stopping: asyncio.Event, seconds: float) -> None:
        """Wait until there is a record, `stopping` is set, or `seconds` have passed."""
        loop = asyncio.get_running_loop()
        readable = asyncio.Event()
        began = self._clock.monotonic()
        loop.add_reader(self._descriptor, readable.set)
        try:
            await run_until_event(stopping, wait_for_event(readable, seconds))
        finally:
            # Left in place, it would fire for as long as nobody reads.
            loop.remove_reader(self._descriptor)
        # After a freeze of the process the moment at which a record arrived is unknown.
        was_frozen = self._clock.monotonic() - began > seconds + 1
        self._is_live = self.is_drained and readable.is_set() and not was_frozen
