"""Events, gaps and cursors of the kernel's log, over restarts and losses."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector.kernel.cursor import KernelLogCursor
from sematext_agent.host_collector.kernel.log_reader import KernelRecord
from sematext_agent.host_collector.kernel.translate import AUDIT_SECONDS, KernelLogTranslator
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import (
    NS_PER_SECOND,
    Gap,
    OutOfMemory,
    format_rfc3339,
    parse_rfc3339,
)

BEGAN = 1_795_423_877 * NS_PER_SECOND
NOW = BEGAN + 3600 * NS_PER_SECOND


class ManualClock:
    """A clock that stands still until a test moves it."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def monotonic(self) -> float:
        return self.seconds

    def boottime(self) -> float:
        return self.seconds

    def wall_ns(self) -> int:
        return NOW + int(self.seconds * NS_PER_SECOND)


class FakeKernel:
    """A kernel that writes records, some of them about kills, which it counts."""

    def __init__(self) -> None:
        self.log: list[KernelRecord] = []
        self.kills: int | None = 0
        self.clock = ManualClock()

    def log_record(self, text: str = "usb 1-1: new device") -> None:
        number = len(self.log)
        self.log.append(
            KernelRecord(
                sequence=number,
                time=BEGAN + number * NS_PER_SECOND,
                facility=0,
                continued=False,
                text=text,
            )
        )

    def kill(self, pid: int) -> None:
        self.kills = None if self.kills is None else self.kills + 1
        self.log_record(f"Out of memory: Killed process {pid} (hog) total-vm:9kB, anon-rss:4kB, ")

    def translator(self, cursor: bytes | None = None, boot: str = "boot") -> KernelLogTranslator:
        decoded = msgspec.json.decode(cursor, type=KernelLogCursor) if cursor else None
        return KernelLogTranslator("web-01", boot, decoded, lambda: self.kills, self.clock)

    def audit(self, translator: KernelLogTranslator) -> list[Observation]:
        """Finish the batch when an audit is due."""
        self.clock.seconds += AUDIT_SECONDS
        return list(translator.finish_batch())

    def run(
        self,
        cursor: bytes | None = None,
        *,
        oldest: int = 0,
        boot: str = "boot",
        audits: bool = True,
    ) -> list[Observation]:
        """Run once, with what the log still holds, to the orderly end."""
        translator = self.translator(cursor, boot)
        return [
            *translator.start(),
            *translator.translate(self.log[oldest:]),
            *(self.audit(translator) if audits else translator.finish_batch()),
            *translator.stop(),
        ]


def emitted(observations: Iterable[Observation]) -> list[int | tuple[str, int | None]]:
    """Return the pids of the kills and the reasons of the gaps, in their order."""
    results: list[int | tuple[str, int | None]] = []
    for observation in observations:
        match observation.event and observation.event.body:
            case OutOfMemory(pid=pid):
                results.append(pid)
            case Gap(reason=reason, lost=lost):
                results.append((reason, lost))
    return results


def last(observations: list[Observation]) -> bytes:
    cursors = [observation.cursor for observation in observations if observation.cursor]
    return cursors[-1]


def test_the_first_start_emits_nothing_old_and_the_next_resumes_there() -> None:
    kernel = FakeKernel()
    kernel.kill(1)
    first = kernel.run()
    assert emitted(first) == []
    kernel.kill(2)
    assert emitted(kernel.run(last(first))) == [2]


def test_a_kill_carries_the_time_the_id_and_the_part_of_its_record() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    kernel.kill(7)
    observation, *_ = kernel.run(cursor)
    assert observation.event is not None
    assert observation.event.time == format_rfc3339(BEGAN + NS_PER_SECOND)
    assert observation.event.origin == "web-01"
    assert observation.cursor_name == "oom"
    again, *_ = kernel.run(cursor)
    assert again.event is not None
    assert again.event.id == observation.event.id
    another, *_ = kernel.run(cursor, boot="another")[1:]
    assert another.event is not None
    assert another.event.id != observation.event.id


@given(st.lists(st.sampled_from("ksrc"), max_size=40))
def test_whenever_it_is_restarted_no_kill_is_lost_and_none_has_two_ids(steps: list[str]) -> None:
    """Repeat the four steps in any order.

    k: a kill; s: another record; r: an orderly restart; c: the collector is killed after every
    event was published, and only the first of the cursors was stored.
    """
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    expected, results = [], []
    for step in [*steps, "r"]:
        if step == "k":
            kernel.kill(len(kernel.log))
            expected.append(len(kernel.log) - 1)
        elif step == "s":
            kernel.log_record()
        else:
            observations = kernel.run(cursor)
            results += observations
            cursor = last(observations if step == "r" else observations[:1])
    once = {observation.event.id: observation for observation in results if observation.event}
    assert emitted(once.values()) == expected
    if "c" not in steps:
        assert emitted(results) == expected


def test_a_restart_between_the_two_records_of_a_group_kill_emits_no_duplicate() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    kernel.kill(7)
    observations = kernel.run(cursor)
    assert emitted(observations) == [7]
    kernel.log_record("Tasks in /t are going to be killed due to memory.oom.group set")
    kernel.kill(7)
    kernel.kill(8)
    assert emitted(kernel.run(last(observations))) == [8]


def test_an_overrun_is_a_gap_with_the_number_of_kills_it_hid() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    for pid in range(100, 105):
        kernel.kill(pid)
    observations = kernel.run(cursor, oldest=4)
    assert emitted(observations) == [103, 104, ("overrun", 3)]
    gap = observations[2].event
    assert gap is not None
    assert isinstance(gap.body, Gap)
    assert (gap.body.source, gap.body.until) == ("host", format_rfc3339(BEGAN + 4 * NS_PER_SECOND))
    assert gap.body.detail.startswith("3 records")
    # The cursor waits for the gap: lost between the two, both are emitted again with the same ids.
    assert [observation.cursor is None for observation in observations[:3]] == [True, True, False]
    again = kernel.run(cursor, oldest=4)
    assert [o.event and o.event.id for o in again] == [o.event and o.event.id for o in observations]
    assert emitted(kernel.run(last(observations), oldest=4)) == []


def test_an_overrun_while_following_is_one_gap_with_its_number() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    translator = kernel.translator()
    assert emitted([*translator.translate(kernel.log), *kernel.audit(translator)]) == []
    for pid in (100, 101, 102):
        kernel.kill(pid)
    observations = [
        *translator.translate(kernel.log[3:]),
        *kernel.audit(translator),
        *kernel.audit(translator),
    ]
    assert emitted(observations) == [102, ("overrun", 2)]


def test_an_overrun_that_hid_no_kill_has_lost_zero() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    for _ in range(5):
        kernel.log_record()
    assert emitted(kernel.run(cursor, oldest=3)) == [("overrun", 0)]


def test_a_kernel_without_a_counter_leaves_the_number_open() -> None:
    kernel = FakeKernel()
    kernel.kills = None
    kernel.log_record()
    cursor = last(kernel.run())
    for pid in range(3):
        kernel.kill(pid)
    assert emitted(kernel.run(cursor, oldest=2)) == [1, 2, ("overrun", None)]


def test_a_stop_before_the_gap_is_emitted_leaves_it_to_the_next_start() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    cursor = last(kernel.run())
    kernel.kill(1)
    kernel.kill(2)
    stopped = kernel.run(cursor, oldest=2, audits=False)
    assert emitted(stopped) == [2]
    assert [observation.cursor for observation in stopped] == [None]
    assert emitted(kernel.run(cursor, oldest=2)) == [2, ("overrun", 1)]


def test_kills_the_log_never_showed_are_one_gap() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    translator = kernel.translator()
    assert emitted([*translator.translate(kernel.log), *kernel.audit(translator)]) == []
    assert kernel.kills is not None
    kernel.kills += 2
    # The counter runs ahead of the log, so a kill is only missed when the next audit misses it.
    assert emitted(kernel.audit(translator)) == []
    kernel.kill(9)
    observations = [*translator.translate(kernel.log[1:]), *kernel.audit(translator)]
    assert emitted(observations) == [9, ("unseen", 1)]
    assert emitted([*kernel.audit(translator), *kernel.audit(translator)]) == [("unseen", 1)]
    assert emitted([*kernel.audit(translator), *kernel.audit(translator), *translator.stop()]) == []


def test_repetitions_do_not_count_as_missing_kills() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    translator = kernel.translator()
    emitted([*translator.translate(kernel.log), *kernel.audit(translator)])
    kernel.kill(5)
    kernel.log_record("Tasks in /t are going to be killed due to memory.oom.group set")
    kernel.kill(5)
    assert emitted(translator.translate(kernel.log[1:])) == [5]
    assert (
        emitted([*kernel.audit(translator), *kernel.audit(translator), *kernel.audit(translator)])
        == []
    )


def test_after_a_reboot_the_lost_end_of_the_log_is_a_gap_and_the_new_log_is_read_whole() -> None:
    before = FakeKernel()
    before.log_record()
    cursor = last(before.run())
    stopped = msgspec.json.decode(cursor, type=KernelLogCursor).time
    after = FakeKernel()
    after.kill(3)
    observations = after.run(cursor, boot="next")
    assert emitted(observations) == [("reboot", None), 3]
    gap = observations[0].event
    assert gap is not None
    assert isinstance(gap.body, Gap)
    assert parse_rfc3339(gap.body.since) <= stopped
    assert parse_rfc3339(gap.body.until) >= parse_rfc3339(gap.body.since)
    assert emitted(after.run(last(observations), boot="next")) == []


def test_after_a_reboot_with_an_overrun_lost_is_what_the_counter_has_more() -> None:
    before = FakeKernel()
    before.log_record()
    after = FakeKernel()
    for pid in range(4):
        after.kill(pid)
    results = emitted(after.run(last(before.run()), boot="next", oldest=3))
    assert results == [("reboot", None), 3, ("overrun", 3)]


def test_where_the_log_cannot_be_read_the_counter_gives_the_number_of_kills() -> None:
    kernel = FakeKernel()
    kernel.kills = 5  # before the first start
    translator = kernel.translator()
    observations = [*translator.translate(()), *kernel.audit(translator)]
    kernel.kills = 7
    observations += [*kernel.audit(translator), *kernel.audit(translator), *translator.stop()]
    assert emitted(observations) == [("unreadable", 2)]
    # Readable from the next start on, it begins like a first start.
    kernel.kill(1)
    observations = kernel.run(last(observations))
    assert emitted(observations) == []
    kernel.kill(2)
    assert emitted(kernel.run(last(observations))) == [2]


def test_kills_that_are_read_later_hide_no_further_kill_from_the_counter() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    translator = kernel.translator(last(kernel.run()))
    observations = kernel.audit(translator)
    kernel.kill(1)
    kernel.kill(2)
    observations += [*kernel.audit(translator), *kernel.audit(translator), *translator.stop()]
    assert emitted(observations) == [("unreadable", 2)]
    translator = kernel.translator(last(observations))
    assert emitted([*translator.translate(kernel.log), *kernel.audit(translator)]) == [1, 2]
    assert kernel.kills is not None
    kernel.kills += 1
    assert emitted([*kernel.audit(translator), *kernel.audit(translator)]) == [("unseen", 1)]


def test_what_was_never_read_is_not_missed_after_a_reboot() -> None:
    before = FakeKernel()
    unreadable = before.translator()
    cursor = last([*unreadable.start(), *before.audit(unreadable), *unreadable.stop()])
    after = FakeKernel()
    after.kill(1)
    assert emitted(after.run(cursor, boot="next")) == []


def test_a_machine_set_back_to_a_snapshot_emits_what_comes_next() -> None:
    kernel = FakeKernel()
    for _ in range(10):
        kernel.log_record()
    cursor = last(kernel.run())
    del kernel.log[5:]
    observations = kernel.run(cursor)
    kernel.kill(5)
    assert emitted(kernel.run(last(observations))) == [5]


def test_records_move_the_cursor_and_silence_only_does_after_ten_minutes() -> None:
    kernel = FakeKernel()
    kernel.log_record()
    translator = kernel.translator()
    assert len([*translator.translate(kernel.log), *kernel.audit(translator)]) == 1
    assert kernel.audit(translator) == []
    kernel.log_record()
    assert [
        o.event for o in (*translator.translate(kernel.log[1:]), *kernel.audit(translator))
    ] == [None]
    assert kernel.audit(translator) == []
    kernel.clock.seconds += 601
    assert [observation.event for observation in kernel.audit(translator)] == [None]
