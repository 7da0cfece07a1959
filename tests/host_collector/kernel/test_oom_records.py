"""The kills among records of the kernel's log: storms, groups, pieces and hostile names."""

from __future__ import annotations

import itertools
import random
import time

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from kernel_records import SECTIONS, kill_record, killed, oom_kill, records

from sematext_agent.host_collector.kernel.oom_records import OomRecordReader
from sematext_agent.shared.events import NS_PER_SECOND, OutOfMemory


def read(*texts: str) -> list[OutOfMemory]:
    reader = OomRecordReader()
    return [kill for text in texts if (kill := reader.read(kill_record(text)))]


@pytest.mark.parametrize(
    ("line", "name", "kilobytes", "uid"),
    [
        (
            "Killed process 918 (mysqld), UID 27, total-vm:2184052kB, anon-rss:18492kB, "
            "file-rss:0kB, shmem-rss:0kB",
            "mysqld",
            18492,
            27,
        ),  # RHEL 7
        (
            "Out of memory: Killed process 5 (x) total-vm:9kB, anon-rss:4kB, file-rss:2kB, "
            "shmem-rss:1kB",
            "x",
            7,
            None,
        ),  # 5.1 to 5.3
        (
            "Out of memory (oom_kill_allocating_task): Killed process 5 (x) total-vm:9kB, "
            "anon-rss:4kB, file-rss:2kB, shmem-rss:1kB, UID:7 pgtables:9kB oom_score_adj:-5",
            "x",
            7,
            7,
        ),
        (
            "Out of memory: Killed process 5 (x) total-vm:9kB, anon-rss:4kB, file-rss:2kB, "
            "shmem-rss:1kB, swap:8kB, UID:7 pgtables:9kB oom_score_adj:0 tomorrow:1kB",
            "x",
            7,
            7,
        ),  # fields that a kernel to come may add
    ],
)
def test_lines_of_other_kernels(line: str, name: str, kilobytes: int, uid: int | None) -> None:
    (kill,) = read(line)
    assert (kill.process, kill.memory, kill.uid) == (name, kilobytes * 1024, uid)


@pytest.mark.parametrize(
    "line",
    [
        "Memory cgroup out of memory: Kill process 105 (hog) score 1009 or sacrifice child",
        "Out of memory: OOM victim 5 (x) is already exiting. Skip killing the task",
        "oom_reaper: reaped process 431 (hog), now anon-rss:0kB, file-rss:0kB, shmem-rss:0kB",
        "Out of memory and no killable processes...",
        "Killed process invoked oom-killer: gfp_mask=0xcc0(GFP_KERNEL), order=0, oom_score_adj=0",
        # Records that end with the name of a cgroup, which its owner chose.
        "Task in /a killed as a result of limit of /a: " + killed(1, "init", ""),
        "Memory cgroup stats for /a: " + killed(1, "init", ""),
        "x: " + killed(1, "init"),
    ],
)
def test_what_only_looks_like_a_kill_is_none(line: str) -> None:
    assert read(line) == []


def test_the_killed_record_alone_is_enough_when_a_storm_silences_the_others() -> None:
    first, second, third = read(oom_kill(1, "/l/a"), killed(1), killed(2), killed(3))
    assert (first.cgroup, first.uid) == ("/l/a", 0)
    # The cgroup of the first victim is not that of the next.
    assert {(k.cgroup, k.limit_cgroup, k.constraint) for k in (second, third)} == {
        ("", "", "memcg")
    }


def test_a_cgroup_is_only_that_of_the_process_named_with_it() -> None:
    (kill,) = read(oom_kill(1, "/l/a"), killed(2))
    assert kill.cgroup == ""


GROUP = "Tasks in /l/pod are going to be killed due to memory.oom.group set"


def test_of_a_group_every_process_is_one_kill_with_its_cgroup() -> None:
    kills = read(
        oom_kill(5, "/l/pod/c"),
        killed(5),
        GROUP,
        killed(4),
        killed(5),
        killed(6),
        "x invoked oom-killer: gfp_mask=0",
        oom_kill(5, "/l/other"),
        killed(5),
    )
    assert [(k.pid, k.cgroup, k.limit_cgroup) for k in kills] == [
        (5, "/l/pod/c", "/l"),
        (4, "/l/pod", "/l"),
        (6, "/l/pod", "/l"),
        (5, "/l/other", "/l"),
    ]


def test_the_cgroup_of_one_kill_is_not_that_of_the_next_on_old_kernels_either() -> None:
    place, dump = "Task in /t killed as a result of limit of /t", "x invoked oom-killer: gfp_mask=0"
    assert [kill.cgroup for kill in read(place, killed(1), killed(2))] == ["/t", ""]
    assert [kill.cgroup for kill in read(place, dump, killed(1))] == [""]


def test_a_group_ends_where_the_kernel_begins_anew() -> None:
    dump = "x invoked oom-killer: gfp_mask=0"
    kills = read(oom_kill(5, "/l/pod/c"), killed(5), GROUP, killed(5), dump, killed(5), killed(6))
    assert [(kill.pid, kill.cgroup) for kill in kills] == [(5, "/l/pod/c"), (5, ""), (6, "")]


def test_in_a_storm_the_cgroup_of_a_group_is_nobody_elses() -> None:
    """After ten dumps in five seconds the eleventh is not written: its victim may be anywhere."""
    reader = OomRecordReader()
    for _ in range(10):
        reader.read(kill_record("x invoked oom-killer: gfp_mask=0"))
    for text in (oom_kill(5, "/l/pod/c"), killed(5), GROUP):
        reader.read(kill_record(text))
    during_limit = reader.read(kill_record(killed(6), at=5 * NS_PER_SECOND - 1))
    after_limit = reader.read(kill_record(killed(7), at=5 * NS_PER_SECOND))
    assert during_limit is not None
    assert after_limit is not None
    assert (during_limit.cgroup, after_limit.cgroup) == ("", "/l/pod")


def test_a_line_that_the_kernel_wrote_in_pieces_is_read_whole() -> None:
    reader = OomRecordReader()
    whole = oom_kill(5, "/l/a")
    for piece, continued in ((whole[:40], False), (whole[40:90], True), (whole[90:], True)):
        reader.read(kill_record(piece, continued=continued))
    reader.read(kill_record("something else", continued=True))
    kill = reader.read(kill_record(killed(5)))
    assert kill is not None
    assert kill.cgroup == "/l/a"


def test_a_cgroup_cannot_pass_for_another_by_its_name() -> None:
    container_id = "d" * 64
    hostile = f"/l/x,task_memcg=/docker/{container_id}"
    for limit in ("/l", "/l/x", hostile):
        (kill,) = read(oom_kill(5, hostile, limit), killed(5))
        assert (kill.cgroup, kill.limit_cgroup) == (hostile, limit)


names = st.binary(min_size=1, max_size=15).filter(lambda name: b"\0" not in name)


def escaped(raw: bytes) -> str:
    """Escape as the kernel does (kernel/printk/printk.c, append_char)."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}" for byte in raw
    )


@example(name=b") total-vm:1kB,", pid=5, sizes=(4, 3, 2, 1))
@example(name=b"\\x41\xff\n", pid=5, sizes=(4, 3, 2, 1))
@given(name=names, pid=st.integers(1, 2**22), sizes=st.tuples(*[st.integers(0, 2**40)] * 4))
def test_any_name_survives(name: bytes, pid: int, sizes: tuple[int, int, int, int]) -> None:
    virtual, anonymous, file, shared = sizes
    where = oom_kill(pid, "/l/a", name=escaped(name))
    (kill,) = read(
        where,
        f"Out of memory: Killed process {pid} ({escaped(name)}) total-vm:{virtual}kB, "
        f"anon-rss:{anonymous}kB, file-rss:{file}kB, shmem-rss:{shared}kB, UID:1000 "
        "pgtables:72kB oom_score_adj:-17",
    )
    assert kill.process == name.decode("utf-8", "backslashreplace")
    assert (kill.pid, kill.uid, kill.oom_score_adj) == (pid, 1000, -17)
    assert kill.memory == (anonymous + file + shared) * 1024
    assert kill.virtual == virtual * 1024
    assert kill.cgroup == ("/l/a" if b",task=" not in name else kill.cgroup)
    assert kill.cgroup.startswith("/l/a")


@given(text=st.text(), facility=st.integers(0, 30), continued=st.booleans())
def test_any_text_is_read_without_an_error(text: str, facility: int, continued: bool) -> None:
    reader = OomRecordReader()
    reader.read(kill_record(oom_kill(5, "/l/a")[:50]))
    reader.read(kill_record(text, facility=facility, continued=continued))


def test_a_thousand_mutilated_kills_raise_nothing_and_cost_little() -> None:
    """A bounded fuzz: real records cut, doubled and shuffled, some long and all repetition."""
    chance = random.Random(3)
    real = [record for lines in SECTIONS.values() for record in records(lines)]
    reader = OomRecordReader()
    began = time.process_time()
    for _ in range(1000):
        text = chance.choice(real).text
        cut = chance.randrange(len(text) + 1)
        second = chance.choice(real).text
        text = chance.choice([text[:cut], text[cut:], text[:cut] + second, text * 3])
        kill = reader.read(kill_record(text, continued=chance.random() < 0.3))
        assert kill is None or kill.memory >= 0
    for piece in (",task_memcg=/", "oom_memcg=/a,task_memcg=/", ") total-vm:1", ",task=", ",pid=1"):
        for start in ("oom-kill:constraint=CONSTRAINT_X,", "Killed process 1 ("):
            reader.read(kill_record(start + piece * (1024 // len(piece))))
    assert time.process_time() - began < 5


def test_most_records_cost_next_to_nothing() -> None:
    """The log of a busy host is nearly all other records, so those must be cheap."""
    reader = OomRecordReader()
    line = kill_record("IN=eth0 OUT= MAC=00:11:22:33 SRC=192.0.2.1 DST=192.0.2.2 LEN=60 TTL=49")
    began = time.process_time()
    for _ in itertools.repeat(None, 10_000):
        reader.read(line)
    assert time.process_time() - began < 0.5
