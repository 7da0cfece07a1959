"""Records of the kernel's log for tests: captured ones, and ones as the kernel would write them.

The capture holds records of eight kernels from 4.4 to 6.18, exactly as they were read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from pathlib import Path

from sematext_agent.host_collector.kernel.log_reader import KernelRecord, parse_record

CAPTURE = Path(__file__).parent / "host_collector/kernel/fixtures/oom-kmsg.txt"


def sections() -> dict[str, list[str]]:
    """Return the lines of the capture by their headings, without the parts that repeat another."""
    by_heading: dict[str, list[str]] = {}
    lines: list[str] = []
    repeated = False
    for line in CAPTURE.read_text().splitlines():
        if heading := re.match(r"#+ (A\d+\.?|B \S+ cgroup-v\d)(?= |$)", line):
            lines = by_heading.setdefault(heading[1].rstrip("."), [])
            repeated = False
        elif line.startswith("# @@"):
            repeated = "full record set" in line
        if not repeated:
            lines.append(line)
    return by_heading


SECTIONS = sections()


def records(lines: Iterable[str]) -> Iterator[KernelRecord]:
    """Yield the records in lines of the capture."""
    for line in lines:
        if line and not line.startswith("#"):
            yield parse_record(line.encode(), 0)


def kill_record(
    text: str, number: int = 0, *, facility: int = 0, continued: bool = False, at: int = 0
) -> KernelRecord:
    """Return a record with this text."""
    return KernelRecord(sequence=number, time=at, facility=facility, continued=continued, text=text)


def killed(pid: int, name: str = "hog", prefix: str = "Memory cgroup out of memory: ") -> str:
    """Return the text of the record of a kill."""
    return (
        f"{prefix}Killed process {pid} ({name}) total-vm:100kB, anon-rss:3kB, file-rss:2kB, "
        "shmem-rss:1kB, UID:0 pgtables:72kB oom_score_adj:0"
    )


def oom_kill(pid: int, cgroup: str, limit: str = "/l", name: str = "hog") -> str:
    """Return the text of the record that names the cgroup of a kill."""
    return (
        f"oom-kill:constraint=CONSTRAINT_MEMCG,nodemask=(null),cpuset=/,mems_allowed=0,"
        f"oom_memcg={limit},task_memcg={cgroup},task={name},pid={pid},uid=33"
    )
