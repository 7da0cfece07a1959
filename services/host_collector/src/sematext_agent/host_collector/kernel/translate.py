"""From records of the kernel's log to events, gaps and cursors. No I/O of its own.

The log is always read from its oldest record on. Records up to the cursor only give context to
later ones. Kills after it become events, so kills while the collector was down are emitted for as
long as the log holds them. The first start ever emits nothing that happened before it.

Three things can hide a kill, and each becomes a `Gap`:

- `overrun`: records were overwritten before they were read;
- `reboot`: the log of the boot before was lost with it;
- `unseen`: the kernel has counted (`oom_kill` in /proc/vmstat, since Linux 4.13) more kills than
  its log has shown. The counter counts the `Killed process` records, repetitions included. `lost`
  of a gap is how many kills are missing by the counter; 0 proves that an overrun hid none.

Where the log cannot be read, the counter still gives the number of kills (`unreadable`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import msgspec
from msgspec import structs

from sematext_agent.host_collector.kernel.cursor import CURSOR_NAME, KernelLogCursor
from sematext_agent.host_collector.kernel.log_reader import KernelRecord
from sematext_agent.host_collector.kernel.oom_records import OomRecordReader
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import NS_PER_SECOND, Event, event_id, format_rfc3339
from sematext_agent.shared.gaps import gap_event

AUDIT_SECONDS = 10.0
"""Interval in which the kernel's counter is compared with its log."""
COUNTER_LEAD_SECONDS = 1.0
"""Age of a reading of the counter at which the log must show it: the counter is written first."""
_CURSOR_SECONDS_MAX = 600.0
"""Age up to which a stored cursor is kept while the kernel writes nothing."""


class _Overrun(msgspec.Struct):
    """Records that were overwritten before they were read."""

    after: int
    """The sequence number of the last record read before them."""
    since: int
    until: int = 0
    records: int = 0


class KernelLogTranslator:
    """The state between the records of the kernel's log and what the collector emits."""

    def __init__(
        self,
        origin: str,
        boot: str,
        cursor: KernelLogCursor | None,
        count_kills: Callable[[], int | None],
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        """Resume from `cursor`, or begin now where it is None.

        Args:
            origin: the host's name in events.
            boot: the id of this boot.
            cursor: the stored cursor, of this boot or of one before.
            count_kills: reads the kernel's own counter; returns None where it has none.
            clock: the clocks of this process.
        """
        self._origin = origin
        self._count_kills = count_kills
        self._clock = clock
        self._oom_reader = OomRecordReader()
        self._counted = count_kills()
        self._previous = cursor
        self._cursor = self._stored = self._resume(cursor, boot)
        self._newest: int | None = None
        self._overrun: _Overrun | None = None
        self._audit_at = clock.monotonic() + COUNTER_LEAD_SECONDS

    def _resume(self, cursor: KernelLogCursor | None, boot: str) -> KernelLogCursor:
        now = self._clock.wall_ns()
        if cursor is None:
            return KernelLogCursor(boot=boot, sequence=None, kills=self._counted, time=now)
        if cursor.boot == boot:
            return cursor
        # The log of this boot is new from its first record on, and so is the counter.
        return KernelLogCursor(
            boot=boot,
            sequence=None if cursor.sequence is None else -1,
            kills=None if self._counted is None else 0,
            time=now - int(self._clock.boottime() * NS_PER_SECOND),
        )

    @property
    def seconds_to_audit(self) -> float:
        """Seconds until `finish_batch` has to be called although there is no record."""
        return max(0.0, self._audit_at - self._clock.monotonic())

    def start(self) -> Iterator[Observation]:
        """Yield what is known before a record is read: a gap after a reboot."""
        previous = self._previous
        if previous is None:
            yield self._store_cursor()  # from now on the counter is compared
        elif previous.boot != self._cursor.boot and previous.sequence is not None:
            yield self._gap(
                "reboot",
                (previous.boot, "reboot", previous.sequence),
                previous.time,
                self._cursor.time,
                detail="the kernel's log went with the reboot, and what it said after the last "
                "record read",
            )

    def translate(self, records: Sequence[KernelRecord]) -> Iterator[Observation]:
        """Yield an event for each kill in the next `records`."""
        for record in records:
            self._newest = record.sequence
            kill_records = self._oom_reader.kill_records
            kill = self._oom_reader.read(record)
            cursor = self._cursor
            if cursor.sequence is None or record.sequence <= cursor.sequence:
                continue  # emitted before, or older than the first start
            if record.sequence > cursor.sequence + 1:
                self._note_overrun(record, cursor.sequence)
            kills = cursor.kills
            if kills is not None:
                kills += self._oom_reader.kill_records - kill_records
            self._cursor = KernelLogCursor(
                boot=cursor.boot, sequence=record.sequence, kills=kills, time=record.time
            )
            if kill is not None:
                yield self._observe(
                    Event(
                        id=event_id(cursor.boot, "oom_kill", record.sequence),
                        time=format_rfc3339(record.time),
                        origin=self._origin,
                        agent=AGENT_VERSION,
                        body=kill,
                    )
                )

    def _note_overrun(self, record: KernelRecord, after: int) -> None:
        if self._overrun is None:
            self._overrun = _Overrun(after=after, since=self._cursor.time)
        self._overrun.until = record.time
        self._overrun.records += record.sequence - after - 1
        self._counted = self._count_kills()
        self._audit_at = self._clock.monotonic() + COUNTER_LEAD_SECONDS

    def finish_batch(self) -> Iterator[Observation]:
        """Yield gaps and the cursor, once `translate` was given every record there is."""
        cursor = self._cursor
        if cursor.sequence is None and self._newest is not None:
            # The first start: everything in the log is from before it.
            self._cursor = structs.replace(
                cursor,
                sequence=self._newest,
                kills=self._count_kills(),
                time=self._clock.wall_ns(),
            )
            yield self._store_cursor()
        elif self._newest is not None and cursor.sequence is not None:
            # A virtual machine that was set back to a snapshot has written less than was read.
            sequence = min(cursor.sequence, self._newest)
            self._cursor = structs.replace(cursor, sequence=sequence)
        if self.seconds_to_audit == 0:
            yield from self._audit()

    def _audit(self) -> Iterator[Observation]:
        """Compare the counter, as it was at the last audit, with what the log has shown by now."""
        since, boot, emitted = self._cursor.time, self._cursor.boot, self._cursor.kills
        overrun, counted, now = self._overrun, self._count_kills(), self._clock.wall_ns()
        lost, kills = None, emitted
        if emitted is not None and self._counted is not None and counted is not None:
            lost = max(0, self._counted - emitted)
            kills = min(emitted + lost, counted)
        self._cursor = structs.replace(self._cursor, kills=kills, time=now)
        self._overrun = None
        if overrun is not None:
            identity = (boot, "overrun", overrun.after)
            detail = (
                f"{overrun.records} records of the kernel's log were overwritten before they were "
                "read"
            )
            yield self._gap("overrun", identity, overrun.since, overrun.until, lost, detail)
        elif lost:
            reason = "unseen" if self._newest is not None else "unreadable"
            detail = f"kills that the kernel counted and that could not be read in its log: {lost}"
            yield self._gap(reason, (boot, reason, emitted), since, now, lost, detail)
        elif self._is_worth_storing():
            yield self._store_cursor()
        self._counted = counted
        self._audit_at = self._clock.monotonic() + AUDIT_SECONDS

    def stop(self) -> Iterator[Observation]:
        """Yield the last cursor; before a gap that is not emitted yet, it stays where it is."""
        if self._overrun is None:
            self._cursor = structs.replace(self._cursor, time=self._clock.wall_ns())
            yield self._store_cursor()

    def _is_worth_storing(self) -> bool:
        age_ns = self._cursor.time - self._stored.time
        return (
            self._stored.sequence != self._cursor.sequence
            or age_ns > _CURSOR_SECONDS_MAX * NS_PER_SECOND
        )

    def _store_cursor(self) -> Observation:
        self._stored = self._cursor
        return Observation(None, msgspec.json.encode(self._cursor), CURSOR_NAME)

    def _observe(self, event: Event) -> Observation:
        # While a gap is not emitted yet, the cursor stays before it.
        cursor = self._store_cursor().cursor if self._overrun is None else None
        return Observation(event, cursor, CURSOR_NAME)

    def _gap(
        self,
        reason: str,
        identity: tuple[object, ...],
        since: int,
        until: int,
        lost: int | None = None,
        detail: str = "",
    ) -> Observation:
        return self._observe(
            gap_event(
                *identity,
                source="host",
                origin=self._origin,
                reason=reason,
                since=format_rfc3339(min(since, until)),
                until=format_rfc3339(until),
                detail=detail,
                lost=lost,
            )
        )
