"""The pure part of the OOM half: what the records of real kernels, and of hostile names, say.

`fixtures/oom-kmsg.txt` holds records of eight kernels from 4.4 to 6.18, exactly as they were read.
"""

from __future__ import annotations

import itertools
import random
import re
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from sematext_agent.host_collector.kmsg import Record, parse
from sematext_agent.host_collector.oom_kills import Kills
from sematext_agent.shared.events import NS_PER_SECOND, OutOfMemory

CAPTURE = Path(__file__).with_name("fixtures") / "oom-kmsg.txt"
CONTAINER = "6833e82b10e71c4b423edb5f56c8a62e8b462f0d0a25ca10f9a7a9f1bbca6017"


def sections() -> dict[str, list[str]]:
    """The lines of the capture by their headings, without the parts that repeat another."""
    found: dict[str, list[str]] = {}
    lines: list[str] = []
    repeated = False
    for line in CAPTURE.read_text().splitlines():
        if heading := re.match(r"#+ (A\d+\.?|B \S+ cgroup-v\d)(?= |$)", line):
            lines = found.setdefault(heading[1].rstrip("."), [])
            repeated = False
        elif line.startswith("# @@"):
            repeated = "full record set" in line
        if not repeated:
            lines.append(line)
    return found


SECTIONS = sections()


def records(lines: Iterable[str]) -> Iterator[Record]:
    for line in lines:
        if line and not line.startswith("#"):
            yield parse(line.encode(), 0)


def kills(lines: Iterable[str]) -> tuple[list[OutOfMemory], int]:
    """The kills in the lines, and how many records told of one."""
    reader = Kills()
    found = [kill for record in records(lines) if (kill := reader.add(record))]
    return found, reader.lines


def kill_record(
    text: str, number: int = 0, *, facility: int = 0, continued: bool = False, at: int = 0
) -> Record:
    return Record(sequence=number, time=at, facility=facility, continued=continued, text=text)


def read(*texts: str) -> list[OutOfMemory]:
    reader = Kills()
    return [kill for text in texts if (kill := reader.add(kill_record(text)))]


def killed(pid: int, name: str = "hog", prefix: str = "Memory cgroup out of memory: ") -> str:
    return (
        f"{prefix}Killed process {pid} ({name}) total-vm:100kB, anon-rss:3kB, file-rss:2kB, "
        "shmem-rss:1kB, UID:0 pgtables:72kB oom_score_adj:0"
    )


def oom_kill(pid: int, cgroup: str, limit: str = "/l", name: str = "hog") -> str:
    return (
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        f"oom_memcg={limit},task_memcg={cgroup},task={name},pid={pid},uid=33"
    )


HOST = [  # section, pid, name, kB of anonymous, file and shared memory, cgroup, limit
    ("A1", 1836, "tail", 15872, 304, 0, f"/docker/{CONTAINER}", f"/docker/{CONTAINER}"),
    ("A3", 2120, "python3", 50944, 6816, 0, "/dhtest", "/dhtest"),
    ("A4", 2188, "a) b, c", 50816, 6748, 0, "/dhtest", "/dhtest"),
    ("A5", 2254, "tmux: server", 50944, 6756, 0, "/dhtest", "/dhtest"),
    ("A6", 2336, "(sd-pam)", 50944, 6820, 0, "/dhtest", "/dhtest"),
    ("A7", 2423, "nl\nx", 50664, 6816, 0, "/dhtest", "/dhtest"),
    ("A8", 2492, "Killed process", 50944, 6840, 0, "/dhtest", "/dhtest"),
    ("A9", 2550, "é", 50944, 6804, 0, "/dhtest", "/dhtest"),
    ("A10", 2612, "python3", 6784, 6644, 43904, "/dhtest", "/dhtest"),
    ("A11", 2687, "python3", 50688, 6692, 0, "/dhtest", "/dhtest"),
]


@pytest.mark.parametrize(
    ("section", "pid", "name", "anonymous", "file", "shared", "cgroup", "limit"), HOST
)
def test_the_full_records_of_a_kill_say_who_where_and_how_much(
    section: str,
    pid: int,
    name: str,
    anonymous: int,
    file: int,
    shared: int,
    cgroup: str,
    limit: str,
) -> None:
    (found,), _ = kills(SECTIONS[section])
    assert (found.process, found.pid, found.uid, found.oom_score_adj) == (name, pid, 0, 0)
    assert (found.anonymous, found.file, found.shared) == (
        anonymous * 1024,
        file * 1024,
        shared * 1024,
    )
    assert found.memory == (anonymous + file + shared) * 1024
    assert (found.cgroup, found.limit_cgroup, found.constraint) == (cgroup, limit, "memcg")
    assert found.container_id == (CONTAINER if "docker" in cgroup else "")
    assert found.virtual > found.memory


def test_the_cgroup_of_the_process_and_that_of_the_limit_are_two() -> None:
    (found,), _ = kills(SECTIONS["A12"])
    assert found.process == "nested"
    assert found.cgroup.startswith(found.limit_cgroup + "/")


def test_a_record_that_a_program_wrote_is_never_a_kill() -> None:
    assert len(list(records(SECTIONS["A13"]))) == 3
    assert kills(SECTIONS["A13"]) == ([], 0)


T = "memcg", "/t", "/t"
CHILD = "memcg", "/p/c", "/p"
GLOBAL = "none", "/", ""
UNKNOWN = "", "", ""  # before 5.0 the records of a global kill name no cgroup
KERNELS = {  # pid, name, kB resident, constraint, cgroup, whose limit
    "B 4.4.0 cgroup-v1": [
        (105, "hog", 12732, *T),
        (110, "sleep", 4, *UNKNOWN),
        (123, "hog", 156352, *UNKNOWN),
    ],
    "B 4.15.0 cgroup-v1": [
        (123, "hog", 12736, *T),
        (130, "sleep", 4, *UNKNOWN),
        (142, "hog", 145260, *UNKNOWN),
    ],
    "B 4.15.0 cgroup-v2": [
        (126, "hog", 12736, *T),
        (138, "sleep", 4, *T),
        (137, "hog", 12732, *T),
        (149, "hog", 12736, *CHILD),
    ],
    "B 5.4.0 cgroup-v1": [
        (181, "tail", 13380, *T),
        (186, "sleep", 4, *GLOBAL),
        (198, "tail", 141160, *GLOBAL),
    ],
    "B 5.4.0 cgroup-v2": [
        (184, "tail", 13384, *T),
        (193, "tail", 13384, *T),
        (194, "sleep", 4, *T),
        (205, "tail", 13380, *CHILD),
    ],
    "B 5.10.0 cgroup-v1": [
        (78, "tail", 13380, *T),
        (83, "sleep", 4, *GLOBAL),
        (95, "tail", 139308, *GLOBAL),
    ],
    "B 5.10.0 cgroup-v2": [
        (81, "tail", 13384, *T),
        (90, "tail", 13384, *T),
        (91, "sleep", 4, *T),
        (102, "tail", 13380, *CHILD),
    ],
    "B 5.15.0 cgroup-v1": [
        (125, "tail", 13384, *T),
        (130, "sleep", 4, *GLOBAL),
        (142, "tail", 122944, *GLOBAL),
    ],
    "B 5.15.0 cgroup-v2": [
        (128, "tail", 13380, *T),
        (137, "tail", 13380, *T),
        (138, "sleep", 4, *T),
        (149, "tail", 13380, *CHILD),
    ],
    "B 6.1.0 cgroup-v1": [
        (86, "tail", 13384, *T),
        (91, "sleep", 4, *GLOBAL),
        (103, "tail", 126376, *GLOBAL),
    ],
    "B 6.1.0 cgroup-v2": [
        (89, "tail", 13384, *T),
        (98, "tail", 13384, *T),
        (99, "sleep", 4, *T),
        (110, "tail", 13384, *CHILD),
    ],
    "B 6.8.0 cgroup-v1": [
        (86, "tail", 13440, *T),
        (91, "sleep", 1280, *GLOBAL),
        (103, "tail", 119936, *GLOBAL),
    ],
    "B 6.8.0 cgroup-v2": [
        (88, "tail", 13440, *T),
        (98, "tail", 13312, *T),
        (99, "sleep", 1280, *T),
        (110, "tail", 13440, *CHILD),
    ],
    "B 6.12 cgroup-v1": [
        (140, "tail", 128300, *GLOBAL),
        (145, "sleep", 1324, *GLOBAL),
        (157, "tail", 128172, *GLOBAL),
    ],
    "B 6.12 cgroup-v2": [
        (144, "tail", 13484, *T),
        (153, "tail", 13356, *T),
        (154, "sleep", 1324, *T),
        (165, "tail", 13484, *CHILD),
    ],
}


@pytest.mark.parametrize("section", KERNELS)
def test_the_records_of_every_kernel_name_each_process_once(section: str) -> None:
    found, _ = kills(SECTIONS[section])
    told = [
        (k.pid, k.process, k.memory // 1024, k.constraint, k.cgroup, k.limit_cgroup) for k in found
    ]
    assert told == KERNELS[section]


def test_no_section_of_the_capture_is_left_out() -> None:
    tried = {*KERNELS, *(row[0] for row in HOST), "A12", "A13"}
    # A2 is A1 with a child in the place of the container's first process; A14 is no kernel log.
    assert set(SECTIONS) - tried == {"A2", "A14", "B 4.4.0 cgroup-v2"}
    (found,), _ = kills(SECTIONS["A2"])
    assert (found.process, found.pid, len(found.container_id)) == ("tail", 2027, 64)
    assert list(records(SECTIONS["B 4.4.0 cgroup-v2"])) == []


@pytest.mark.parametrize("section", [name for name in KERNELS if "4.4" not in name])
def test_the_kernel_counts_what_is_counted_here_repetitions_included(section: str) -> None:
    _, lines = kills(SECTIONS[section])
    text = "\n".join(SECTIONS[section])
    (counted,) = re.findall(r"# @@ vmstat\n# oom_kill (\d+)", text)
    assert lines == int(counted)


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
    (found,) = read(line)
    assert (found.process, found.memory, found.uid) == (name, kilobytes * 1024, uid)


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
    # The place of the first victim is not that of the next.
    assert {(k.cgroup, k.limit_cgroup, k.constraint) for k in (second, third)} == {
        ("", "", "memcg")
    }


def test_a_place_is_only_given_to_the_process_it_names() -> None:
    (found,) = read(oom_kill(1, "/l/a"), killed(2))
    assert found.cgroup == ""


GROUP = "Tasks in /l/pod are going to be killed due to memory.oom.group set"


def test_of_a_group_every_process_is_told_once_with_its_place() -> None:
    found = read(
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
    assert [(k.pid, k.cgroup, k.limit_cgroup) for k in found] == [
        (5, "/l/pod/c", "/l"),
        (4, "/l/pod", "/l"),
        (6, "/l/pod", "/l"),
        (5, "/l/other", "/l"),
    ]


def test_the_place_of_one_kill_is_not_that_of_the_next_on_old_kernels_either() -> None:
    place, head = "Task in /t killed as a result of limit of /t", "x invoked oom-killer: gfp_mask=0"
    assert [kill.cgroup for kill in read(place, killed(1), killed(2))] == ["/t", ""]
    assert [kill.cgroup for kill in read(place, head, killed(1))] == [""]


def test_a_group_ends_where_the_kernel_begins_anew() -> None:
    head = "x invoked oom-killer: gfp_mask=0"
    found = read(oom_kill(5, "/l/pod/c"), killed(5), GROUP, killed(5), head, killed(5), killed(6))
    assert [(kill.pid, kill.cgroup) for kill in found] == [(5, "/l/pod/c"), (5, ""), (6, "")]


def test_in_a_storm_a_group_gives_its_place_to_nobody_else() -> None:
    """With ten heads in five seconds the eleventh is silent: its victim may be anywhere."""
    reader = Kills()
    for _ in range(10):
        reader.add(kill_record("x invoked oom-killer: gfp_mask=0"))
    for text in (oom_kill(5, "/l/pod/c"), killed(5), GROUP):
        reader.add(kill_record(text))
    unsure = reader.add(kill_record(killed(6), at=5 * NS_PER_SECOND - 1))
    sure = reader.add(kill_record(killed(7), at=5 * NS_PER_SECOND))
    assert unsure is not None
    assert sure is not None
    assert (unsure.cgroup, sure.cgroup) == ("", "/l/pod")


def test_a_line_that_the_kernel_wrote_in_pieces_is_read_whole() -> None:
    reader = Kills()
    whole = oom_kill(5, "/l/a")
    for piece, continued in ((whole[:40], False), (whole[40:90], True), (whole[90:], True)):
        reader.add(kill_record(piece, continued=continued))
    reader.add(kill_record("something else", continued=True))
    found = reader.add(kill_record(killed(5)))
    assert found is not None
    assert found.cgroup == "/l/a"


def test_a_cgroup_cannot_pass_for_another_by_its_name() -> None:
    other = "d" * 64
    hostile = f"/l/x,task_memcg=/docker/{other}"
    for limit in ("/l", "/l/x", hostile):
        (found,) = read(oom_kill(5, hostile, limit), killed(5))
        assert (found.cgroup, found.limit_cgroup) == (hostile, limit)


names = st.binary(min_size=1, max_size=15).filter(lambda name: b"\0" not in name)


def escaped(raw: bytes) -> str:
    """As the kernel escapes (kernel/printk/printk.c, append_char)."""
    return "".join(
        chr(byte) if 32 <= byte < 127 and byte != ord("\\") else f"\\x{byte:02x}" for byte in raw
    )


@example(name=b") total-vm:1kB,", pid=5, sizes=(4, 3, 2, 1))
@example(name=b"\\x41\xff\n", pid=5, sizes=(4, 3, 2, 1))
@given(name=names, pid=st.integers(1, 2**22), sizes=st.tuples(*[st.integers(0, 2**40)] * 4))
def test_any_name_survives(name: bytes, pid: int, sizes: tuple[int, int, int, int]) -> None:
    virtual, anonymous, file, shared = sizes
    where = oom_kill(pid, "/l/a", name=escaped(name))
    (found,) = read(
        where,
        f"Out of memory: Killed process {pid} ({escaped(name)}) total-vm:{virtual}kB, "
        f"anon-rss:{anonymous}kB, file-rss:{file}kB, shmem-rss:{shared}kB, UID:1000 "
        "pgtables:72kB oom_score_adj:-17",
    )
    assert found.process == name.decode("utf-8", "backslashreplace")
    assert (found.pid, found.uid, found.oom_score_adj) == (pid, 1000, -17)
    assert found.memory == (anonymous + file + shared) * 1024
    assert found.virtual == virtual * 1024
    assert found.cgroup == ("/l/a" if b",task=" not in name else found.cgroup)
    assert found.cgroup.startswith("/l/a")


@given(text=st.text(), facility=st.integers(0, 30), continued=st.booleans())
def test_any_text_is_read_without_an_error(text: str, facility: int, continued: bool) -> None:
    reader = Kills()
    reader.add(kill_record(oom_kill(5, "/l/a")[:50]))
    reader.add(kill_record(text, facility=facility, continued=continued))


def test_a_thousand_mutilated_kills_raise_nothing_and_cost_little() -> None:
    """A bounded fuzz: real records cut, doubled and shuffled, some long and all repetition."""
    chance = random.Random(3)
    real = [record for lines in SECTIONS.values() for record in records(lines)]
    reader = Kills()
    began = time.process_time()
    for _ in range(1000):
        text = chance.choice(real).text
        cut = chance.randrange(len(text) + 1)
        other = chance.choice(real).text
        text = chance.choice([text[:cut], text[cut:], text[:cut] + other, text * 3])
        kill = reader.add(kill_record(text, continued=chance.random() < 0.3))
        assert kill is None or kill.memory >= 0
    for piece in (",task_memcg=/", "oom_memcg=/a,task_memcg=/", ") total-vm:1", ",task=", ",pid=1"):
        for start in ("oom-kill:constraint=CONSTRAINT_X,", "Killed process 1 ("):
            reader.add(kill_record(start + piece * (1024 // len(piece))))
    assert time.process_time() - began < 5


def test_most_records_cost_next_to_nothing() -> None:
    """The log of a busy host is nearly all other things, so those must be cheap."""
    reader = Kills()
    line = kill_record("IN=eth0 OUT= MAC=00:11:22:33 SRC=192.0.2.1 DST=192.0.2.2 LEN=60 TTL=49")
    began = time.process_time()
    for _ in itertools.repeat(None, 10_000):
        reader.add(line)
    assert time.process_time() - began < 0.5
