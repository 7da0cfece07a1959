"""What of the kernel's log is told, what may be missing, and how far it is done. No I/O of its own.

The cursor is the boot and the sequence number of the last record that is done with. The log is
always read from its oldest record on: those the cursor covers only say what later ones are about,
the rest are told, so that kills while the collector was down are reported for as long as the log
holds them. The first start ever tells nothing of what was there before it.

Three things can hide a kill, and each becomes a `Gap`:

- `overrun`: records were overwritten before they were read;
- `reboot`: the log of the boot before went with it;
- `unseen`: the kernel has counted (`oom_kill` in /proc/vmstat, since Linux 4.13) more kills than
  its log has shown. The counter counts the `Killed process` records, repetitions included. A gap
  says in `lost` how many kills the counter misses; 0 proves that an overrun hid none.

Where the log cannot be read, the counter still tells how many kills nobody can name (`unreadable`).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Annotated

import msgspec

from sematext_agent.host_collector.kmsg import Record
from sematext_agent.host_collector.oom_kills import Kills
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import (
    NS_PER_SECOND,
    Event,
    Gap,
    Nanoseconds,
    OutOfMemory,
    event_id,
    format_rfc3339,
)

PART = "oom"
"""The part of the collector's cursors that is this source's."""
AUDIT_SECONDS = 10.0
"""How often the kernel's counter is compared with its log."""
SETTLE_SECONDS = 1.0
"""How old a reading of the counter must be before the log must show it: it counts first."""
_CURSOR_SECONDS_MAX = 600.0
"""How old a stored cursor may grow while the kernel says nothing."""


class Cursor(msgspec.Struct, frozen=True, kw_only=True):
    """How far the kernel's log is told."""

    boot: str
    sequence: Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)] | None
    """The last record that is done with; None where none was ever read."""
    kills: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None
    """How many of the kills that the kernel counts are told or reported as missing."""
    time: Nanoseconds
    """The moment up to which that holds, in nanoseconds since the epoch."""


class _Overrun(msgspec.Struct):
    """Records that were overwritten before they were read."""

    after: int
    """The sequence number of the last one read before them."""
    since: int
    until: int = 0
    records: int = 0


class Follower:
    """Turns the records of the kernel's log, in their order, into what the collector tells.

    `counter` reads the kernel's own count of kills; None where it has none.
    """

    def __init__(
        self, origin: str, boot: str, cursor: Cursor | None, counter: Callable[[], int | None]
    ) -> None:
        self._origin = origin
        self._boot = boot
        self._counter = counter
        self._kills = Kills()
        self._counted = counter()
        self._former = cursor
        if cursor is None:
            cursor = Cursor(boot=boot, sequence=None, kills=self._counted, time=time.time_ns())
        elif cursor.boot != boot:
            # The log of this boot is new from its first record on, and so is the counter.
            sequence = None if cursor.sequence is None else -1
            kills = None if self._counted is None else 0
            cursor = Cursor(boot=boot, sequence=sequence, kills=kills, time=_boot_time())
        self._sequence = cursor.sequence
        self._told = cursor.kills
        self._time = cursor.time
        self._newest: int | None = None
        self._overrun: _Overrun | None = None
        self._stored = cursor
        self._audit_due = time.monotonic() + SETTLE_SECONDS

    @property
    def seconds_to_audit(self) -> float:
        """How long to wait for records before `audit` has something to do all the same."""
        return max(0.0, self._audit_due - time.monotonic())

    def begin(self) -> Iterator[Observation]:
        """What can be told before a record is read: that the machine was started anew."""
        former = self._former
        if former is None:
            yield self._moved()  # from now on the counter is compared
        elif former.boot != self._boot and former.sequence is not None:
            detail = (
                "the kernel's log went with the reboot, and what it said after the last record read"
            )
            yield self._gap(
                "reboot",
                event_id(former.boot, "reboot", former.sequence),
                former.time,
                self._time,
                detail=detail,
            )

    def take(self, records: Sequence[Record]) -> Iterator[Observation]:
        """What the next records tell."""
        for record in records:
            self._newest = record.sequence
            lines = self._kills.lines
            kill = self._kills.add(record)
            if self._sequence is None or record.sequence <= self._sequence:
                continue  # told before, or older than the first start
            if record.sequence > self._sequence + 1:
                self._note_overrun(record)
            self._sequence, self._time = record.sequence, record.time
            if self._told is not None:
                self._told += self._kills.lines - lines
            if kill is not None:
                yield self._observed(
                    event_id(self._boot, "oom_kill", record.sequence), record.time, kill
                )

    def _note_overrun(self, record: Record) -> None:
        assert self._sequence is not None
        if self._overrun is None:
            self._overrun = _Overrun(after=self._sequence, since=self._time)
        self._overrun.until = record.time
        self._overrun.records += record.sequence - self._sequence - 1
        self._counted = self._counter()
        self._audit_due = time.monotonic() + SETTLE_SECONDS

    def drained(self) -> Iterator[Observation]:
        """To be called when `take` has had every record there is."""
        if self._sequence is None and self._newest is not None:
            # The first start: what is in the log now is from before it.
            self._sequence, self._told, self._time = self._newest, self._counter(), time.time_ns()
            yield self._moved()
        elif self._newest is not None and self._sequence is not None:
            # A virtual machine that was set back to a snapshot has written less than was told.
            self._sequence = min(self._sequence, self._newest)
        if self.seconds_to_audit == 0:
            yield from self._audit()

    def _audit(self) -> Iterator[Observation]:
        """Compares the counter, as it was a while ago, with what the log has shown by now."""
        told, overrun, counted, now = self._told, self._overrun, self._counter(), time.time_ns()
        lost = None
        if told is not None and self._counted is not None and counted is not None:
            lost = max(0, self._counted - told)
            self._told = min(told + lost, counted)
        since, self._time, self._overrun = self._time, now, None
        if overrun is not None:
            detail = (
                f"{overrun.records} records of the kernel's log were overwritten before they were "
                "read"
            )
            identity = event_id(self._boot, "overrun", overrun.after)
            yield self._gap("overrun", identity, overrun.since, overrun.until, lost, detail)
        elif lost:
            reason = "unseen" if self._newest is not None else "unreadable"
            detail = f"kills that the kernel counted and that could not be read in its log: {lost}"
            yield self._gap(reason, event_id(self._boot, reason, told), since, now, lost, detail)
        elif self._is_worth_storing(now):
            yield self._moved()
        self._counted = counted
        self._audit_due = time.monotonic() + AUDIT_SECONDS

    def end(self) -> Iterator[Observation]:
        """The last cursor. With a gap untold it stays before the gap, for the next start."""
        if self._overrun is None:
            self._time = time.time_ns()
            yield self._moved()

    def _is_worth_storing(self, now: int) -> bool:
        stored = self._stored
        age = now - stored.time
        return stored.sequence != self._sequence or age > _CURSOR_SECONDS_MAX * NS_PER_SECOND

    def _moved(self) -> Observation:
        self._stored = Cursor(
            boot=self._boot, sequence=self._sequence, kills=self._told, time=self._time
        )
        return Observation(None, msgspec.json.encode(self._stored), PART)

    def _observed(self, identity: str, moment: int, body: OutOfMemory | Gap) -> Observation:
        # While a gap waits to be told, the cursor waits with it.
        cursor = self._moved().cursor if self._overrun is None else None
        event = Event(
            id=identity,
            time=format_rfc3339(moment),
            origin=self._origin,
            agent=AGENT_VERSION,
            body=body,
        )
        return Observation(event, cursor, PART)

    def _gap(
        self,
        reason: str,
        identity: str,
        since: int,
        until: int,
        lost: int | None = None,
        detail: str = "",
    ) -> Observation:
        body = Gap(
            source="host",
            reason=reason,
            since=format_rfc3339(min(since, until)),
            until=format_rfc3339(until),
            detail=detail,
            lost=lost,
        )
        return self._observed(identity, until, body)


def _boot_time() -> int:
    """When this machine was started: nanoseconds since the epoch."""
    return time.time_ns() - time.clock_gettime_ns(time.CLOCK_BOOTTIME)
