"""The kills in the captured records of real kernels."""

from __future__ import annotations

import re
from collections.abc import Iterable

import pytest
from kernel_records import SECTIONS, records

from sematext_agent.host_collector.kernel.oom_records import OomRecordReader
from sematext_agent.shared.events import OutOfMemory

CONTAINER = "6833e82b10e71c4b423edb5f56c8a62e8b462f0d0a25ca10f9a7a9f1bbca6017"


def kills(lines: Iterable[str]) -> tuple[list[OutOfMemory], int]:
    """Return the kills in the lines, and the number of records of a kill."""
    reader = OomRecordReader()
    results = [kill for record in records(lines) if (kill := reader.read(record))]
    return results, reader.kill_records


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
def test_the_full_records_of_a_kill_have_the_process_its_cgroups_and_its_memory(
    section: str,
    pid: int,
    name: str,
    anonymous: int,
    file: int,
    shared: int,
    cgroup: str,
    limit: str,
) -> None:
    (kill,), _ = kills(SECTIONS[section])
    assert (kill.process, kill.pid, kill.uid, kill.oom_score_adj) == (name, pid, 0, 0)
    assert (kill.anonymous, kill.file, kill.shared) == (
        anonymous * 1024,
        file * 1024,
        shared * 1024,
    )
    assert kill.memory == (anonymous + file + shared) * 1024
    assert (kill.cgroup, kill.limit_cgroup, kill.constraint) == (cgroup, limit, "memcg")
    assert kill.container_id == (CONTAINER if "docker" in cgroup else "")
    assert kill.virtual > kill.memory


def test_the_cgroup_of_the_process_and_that_of_the_limit_are_two() -> None:
    (kill,), _ = kills(SECTIONS["A12"])
    assert kill.process == "nested"
    assert kill.cgroup.startswith(kill.limit_cgroup + "/")


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
    results, _ = kills(SECTIONS[section])
    summaries = [
        (k.pid, k.process, k.memory // 1024, k.constraint, k.cgroup, k.limit_cgroup)
        for k in results
    ]
    assert summaries == KERNELS[section]


def test_no_section_of_the_capture_is_left_out() -> None:
    tried = {*KERNELS, *(row[0] for row in HOST), "A12", "A13"}
    # A2 is A1 with a child in the place of the container's first process; A14 is no kernel log.
    assert set(SECTIONS) - tried == {"A2", "A14", "B 4.4.0 cgroup-v2"}
    (kill,), _ = kills(SECTIONS["A2"])
    assert (kill.process, kill.pid, len(kill.container_id)) == ("tail", 2027, 64)
    assert list(records(SECTIONS["B 4.4.0 cgroup-v2"])) == []


@pytest.mark.parametrize("section", [name for name in KERNELS if "4.4" not in name])
def test_the_kernel_counts_what_is_counted_here_repetitions_included(section: str) -> None:
    _, lines = kills(SECTIONS[section])
    text = "\n".join(SECTIONS[section])
    (counted,) = re.findall(r"# @@ vmstat\n# oom_kill (\d+)", text)
    assert lines == int(counted)
