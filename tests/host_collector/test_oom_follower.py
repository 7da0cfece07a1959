"""What is told of the kernel's log, and what is said to be missing, over restarts and losses."""

from __future__ import annotations

import time
from collections.abc import Iterable

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector import oom_follower
from sematext_agent.host_collector.kmsg import Record
from sematext_agent.host_collector.oom_follower import Cursor, Follower
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import (
    NS_PER_SECOND,
    Gap,
    OutOfMemory,
    format_rfc3339,
    parse_rfc3339,
)

BEGAN = 1_795_423_877 * NS_PER_SECOND


@pytest.fixture(autouse=True)
def audit_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every `drained` is an audit, where a test does not say otherwise."""
    monkeypatch.setattr(oom_follower, "SETTLE_SECONDS", 0)
    monkeypatch.setattr(oom_follower, "AUDIT_SECONDS", 0)


class Kernel:
    """A kernel that writes records, some of them about kills, which it counts."""

    def __init__(self) -> None:
        self.log: list[Record] = []
        self.kills: int | None = 0

    def say(self, text: str = "usb 1-1: new device") -> None:
        number = len(self.log)
        self.log.append(
            Record(
                sequence=number,
                time=BEGAN + number * NS_PER_SECOND,
                facility=0,
                continued=False,
                text=text,
            )
        )

    def kill(self, pid: int) -> None:
        self.kills = None if self.kills is None else self.kills + 1
        self.say(f"Out of memory: Killed process {pid} (hog) total-vm:9kB, anon-rss:4kB, ")

    def follower(self, cursor: bytes | None = None, boot: str = "boot") -> Follower:
        decoded = msgspec.json.decode(cursor, type=Cursor) if cursor else None
        return Follower("web-01", boot, decoded, lambda: self.kills)

    def run(
        self, cursor: bytes | None = None, *, oldest: int = 0, boot: str = "boot"
    ) -> list[Observation]:
        """One run of the collector, with what the log still holds, to its orderly end."""
        follower = self.follower(cursor, boot)
        return [
            *follower.begin(),
            *follower.take(self.log[oldest:]),
            *follower.drained(),
            *follower.end(),
        ]


def told(observations: Iterable[Observation]) -> list[int | tuple[str, int | None]]:
    """The pids of the kills and the reasons of the gaps, in their order."""
    found: list[int | tuple[str, int | None]] = []
    for observed in observations:
        match observed.event and observed.event.body:
            case OutOfMemory(pid=pid):
                found.append(pid)
            case Gap(reason=reason, lost=lost):
                found.append((reason, lost))
    return found


def last(observations: list[Observation]) -> bytes:
    cursors = [observed.cursor for observed in observations if observed.cursor]
    return cursors[-1]


def test_the_first_start_tells_nothing_old_and_the_next_goes_on_from_there() -> None:
    kernel = Kernel()
    kernel.kill(1)
    first = kernel.run()
    assert told(first) == []
    kernel.kill(2)
    assert told(kernel.run(last(first))) == [2]


def test_a_kill_carries_the_time_the_id_and_the_part_of_its_record() -> None:
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    kernel.kill(7)
    observed, *_ = kernel.run(cursor)
    assert observed.event is not None
    assert observed.event.time == format_rfc3339(BEGAN + NS_PER_SECOND)
    assert observed.event.origin == "web-01"
    assert observed.cursor_name == "oom"
    again, *_ = kernel.run(cursor)
    assert again.event is not None
    assert again.event.id == observed.event.id
    other, *_ = kernel.run(cursor, boot="another")[1:]
    assert other.event is not None
    assert other.event.id != observed.event.id


@given(st.lists(st.sampled_from("ksrc"), max_size=40))
def test_whenever_it_is_restarted_no_kill_is_lost_and_none_told_twice(steps: list[str]) -> None:
    """k: a kill; s: another record; r: an orderly restart; c: killed, with only the first cursor
    stored of all that were handed out, though every event had been published."""
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    expected, found = [], []
    for step in [*steps, "r"]:
        if step == "k":
            kernel.kill(len(kernel.log))
            expected.append(len(kernel.log) - 1)
        elif step == "s":
            kernel.say()
        else:
            observations = kernel.run(cursor)
            found += observations
            cursor = last(observations if step == "r" else observations[:1])
    once = {observed.event.id: observed for observed in found if observed.event}
    assert told(once.values()) == expected
    if "c" not in steps:
        assert told(found) == expected


def test_between_the_two_records_of_a_group_kill_a_restart_tells_nothing_twice() -> None:
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    kernel.kill(7)
    observations = kernel.run(cursor)
    assert told(observations) == [7]
    kernel.say("Tasks in /t are going to be killed due to memory.oom.group set")
    kernel.kill(7)
    kernel.kill(8)
    assert told(kernel.run(last(observations))) == [8]


def test_an_overrun_is_a_gap_with_the_number_of_kills_it_hid() -> None:
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    for pid in range(100, 105):
        kernel.kill(pid)
    observations = kernel.run(cursor, oldest=4)
    assert told(observations) == [103, 104, ("overrun", 3)]
    gap = observations[2].event
    assert gap is not None
    assert isinstance(gap.body, Gap)
    assert (gap.body.source, gap.body.until) == ("host", format_rfc3339(BEGAN + 4 * NS_PER_SECOND))
    assert gap.body.detail.startswith("3 records")
    # The cursor waits for the gap: lost between the two, both are told again with the same ids.
    assert [observed.cursor is None for observed in observations[:3]] == [True, True, False]
    again = kernel.run(cursor, oldest=4)
    assert [o.event and o.event.id for o in again] == [o.event and o.event.id for o in observations]
    assert told(kernel.run(last(observations), oldest=4)) == []


def test_an_overrun_while_following_is_one_gap_with_its_number() -> None:
    kernel = Kernel()
    kernel.say()
    follower = kernel.follower()
    assert told([*follower.take(kernel.log), *follower.drained()]) == []
    for pid in (100, 101, 102):
        kernel.kill(pid)
    observations = [*follower.take(kernel.log[3:]), *follower.drained(), *follower.drained()]
    assert told(observations) == [102, ("overrun", 2)]


def test_an_overrun_that_hid_no_kill_says_so() -> None:
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    for _ in range(5):
        kernel.say()
    assert told(kernel.run(cursor, oldest=3)) == [("overrun", 0)]


def test_a_kernel_without_a_counter_leaves_the_number_open() -> None:
    kernel = Kernel()
    kernel.kills = None
    kernel.say()
    cursor = last(kernel.run())
    for pid in range(3):
        kernel.kill(pid)
    assert told(kernel.run(cursor, oldest=2)) == [1, 2, ("overrun", None)]


def test_a_stop_before_the_gap_is_told_leaves_it_to_the_next_start(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel()
    kernel.say()
    cursor = last(kernel.run())
    kernel.kill(1)
    kernel.kill(2)
    monkeypatch.setattr(oom_follower, "SETTLE_SECONDS", 60)
    stopped = kernel.run(cursor, oldest=2)
    assert told(stopped) == [2]
    assert [observed.cursor for observed in stopped] == [None]
    monkeypatch.setattr(oom_follower, "SETTLE_SECONDS", 0)
    assert told(kernel.run(cursor, oldest=2)) == [2, ("overrun", 1)]


def test_kills_the_log_never_showed_are_a_gap_told_once() -> None:
    kernel = Kernel()
    kernel.say()
    follower = kernel.follower()
    assert told([*follower.take(kernel.log), *follower.drained()]) == []
    assert kernel.kills is not None
    kernel.kills += 2
    # The counter runs ahead of the log, so a kill is only missed when the next audit misses it.
    assert told(follower.drained()) == []
    kernel.kill(9)
    observations = [*follower.take(kernel.log[1:]), *follower.drained()]
    assert told(observations) == [9, ("unseen", 1)]
    assert told([*follower.drained(), *follower.drained()]) == [("unseen", 1)]
    assert told([*follower.drained(), *follower.drained(), *follower.end()]) == []


def test_repetitions_are_not_taken_for_kills_that_were_not_told() -> None:
    kernel = Kernel()
    kernel.say()
    follower = kernel.follower()
    told([*follower.take(kernel.log), *follower.drained()])
    kernel.kill(5)
    kernel.say("Tasks in /t are going to be killed due to memory.oom.group set")
    kernel.kill(5)
    assert told(follower.take(kernel.log[1:])) == [5]
    assert told([*follower.drained(), *follower.drained(), *follower.drained()]) == []


def test_after_a_reboot_the_lost_end_of_the_log_is_a_gap_and_the_new_log_is_told_whole() -> None:
    before = Kernel()
    before.say()
    cursor = last(before.run())
    stopped = msgspec.json.decode(cursor, type=Cursor).time
    after = Kernel()
    after.kill(3)
    observations = after.run(cursor, boot="next")
    assert told(observations) == [("reboot", None), 3]
    gap = observations[0].event
    assert gap is not None
    assert isinstance(gap.body, Gap)
    assert parse_rfc3339(gap.body.since) <= stopped
    assert parse_rfc3339(gap.body.until) >= parse_rfc3339(gap.body.since)
    assert told(after.run(last(observations), boot="next")) == []


def test_after_a_reboot_with_an_overrun_the_counter_tells_how_many() -> None:
    before = Kernel()
    before.say()
    after = Kernel()
    for pid in range(4):
        after.kill(pid)
    found = told(after.run(last(before.run()), boot="next", oldest=3))
    assert found == [("reboot", None), 3, ("overrun", 3)]


def test_where_the_log_cannot_be_read_the_counter_tells_how_many_and_no_more() -> None:
    kernel = Kernel()
    kernel.kills = 5  # before the first start
    follower = kernel.follower()
    observations = [*follower.take(()), *follower.drained()]
    kernel.kills = 7
    observations += [*follower.drained(), *follower.drained(), *follower.end()]
    assert told(observations) == [("unreadable", 2)]
    # Readable from the next start on, it begins like a first start.
    kernel.kill(1)
    observations = kernel.run(last(observations))
    assert told(observations) == []
    kernel.kill(2)
    assert told(kernel.run(last(observations))) == [2]


def test_kills_that_can_be_named_later_hide_no_other_from_the_counter() -> None:
    kernel = Kernel()
    kernel.say()
    follower = kernel.follower(last(kernel.run()))
    observations = list(follower.drained())
    kernel.kill(1)
    kernel.kill(2)
    observations += [*follower.drained(), *follower.drained(), *follower.end()]
    assert told(observations) == [("unreadable", 2)]
    follower = kernel.follower(last(observations))
    assert told([*follower.take(kernel.log), *follower.drained()]) == [1, 2]
    assert kernel.kills is not None
    kernel.kills += 1
    assert told([*follower.drained(), *follower.drained()]) == [("unseen", 1)]


def test_what_was_never_read_is_not_missed_after_a_reboot() -> None:
    unreadable = Kernel().follower()
    cursor = last([*unreadable.begin(), *unreadable.drained(), *unreadable.end()])
    after = Kernel()
    after.kill(1)
    assert told(after.run(cursor, boot="next")) == []


def test_a_machine_set_back_to_a_snapshot_tells_what_comes_next() -> None:
    kernel = Kernel()
    for _ in range(10):
        kernel.say()
    cursor = last(kernel.run())
    del kernel.log[5:]
    observations = kernel.run(cursor)
    kernel.kill(5)
    assert told(kernel.run(last(observations))) == [5]


def test_a_talking_kernel_moves_the_cursor_and_a_silent_one_does_not(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kernel = Kernel()
    kernel.say()
    follower = kernel.follower()
    assert len([*follower.take(kernel.log), *follower.drained()]) == 1
    assert list(follower.drained()) == []
    kernel.say()
    assert [o.event for o in (*follower.take(kernel.log[1:]), *follower.drained())] == [None]
    assert list(follower.drained()) == []
    monkeypatch.setattr(time, "time_ns", lambda: BEGAN + 10**19)
    assert [observed.event for observed in follower.drained()] == [None]
