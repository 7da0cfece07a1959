"""What processes cost, for the benchmarks, and where their figures meet for the one table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

FIGURES_FILE = "BENCHMARK_FIGURES"
"""The environment variable that names the file in which `benchmarks/table.py` gathers figures."""


def cpu_seconds(process: int) -> float:
    """User and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(process: int) -> float:
    """The most that a process has had resident, in MiB."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmHWM") / 1024


def proportional_mb(process: int) -> float:
    """What a process has in memory, in MiB; of what it shares with others, its share (PSS).

    The sum over several processes is what they take together. It reads what root alone may read
    of somebody else's process.
    """
    return _kilobytes(Path(f"/proc/{process}/smaps_rollup"), "Pss") / 1024


def _kilobytes(file: Path, name: str) -> int:
    return int(re.findall(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)[0])


def family(process: int) -> Iterator[int]:
    """A process and all that it started."""
    yield process
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from family(int(child))


def record(part: str, what: str, value: float, unit: str) -> None:
    """Keeps one figure for the table, where one is being made."""
    if file := os.environ.get(FIGURES_FILE):
        with Path(file).open("a") as figures:
            figures.write(json.dumps([part, what, value, unit]) + "\n")
