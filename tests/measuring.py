"""CPU and memory of processes for the benchmarks, and the file of figures for their table."""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator
from pathlib import Path

FIGURES_FILE = "BENCHMARK_FIGURES"
"""The environment variable with the path of the file of figures of `benchmarks/table.py`."""


def cpu_seconds(process: int) -> float:
    """Return the user and system time of a process so far."""
    fields = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def peak_mb(process: int) -> float:
    """Return the peak of a process's resident memory, in MiB."""
    return _kilobytes(Path(f"/proc/{process}/status"), "VmHWM") / 1024


def proportional_mb(process: int) -> float:
    """Return the proportional memory (PSS) of a process, in MiB.

    The sum over several processes is their memory together. Other users' processes need root.
    """
    return _kilobytes(Path(f"/proc/{process}/smaps_rollup"), "Pss") / 1024


def _kilobytes(file: Path, name: str) -> int:
    return int(re.findall(rf"^{name}:\s+(\d+) kB", file.read_text(), re.MULTILINE)[0])


def family(process: int) -> Iterator[int]:
    """Yield a process and all its descendants."""
    yield process
    for thread in Path(f"/proc/{process}/task").iterdir():
        for child in (thread / "children").read_text().split():
            yield from family(int(child))


def record(part: str, figure: str, value: float, unit: str) -> None:
    """Append a figure to the file of figures, if there is one."""
    if file := os.environ.get(FIGURES_FILE):
        with Path(file).open("a") as figures:
            figures.write(json.dumps([part, figure, value, unit]) + "\n")
