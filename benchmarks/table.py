"""All benchmarks and a table of their figures, beside goals and the figures of peers.

    python benchmarks/table.py [--quick]        # or: make bench ARGS=--quick

Each benchmark prints its results, and appends its figures to the file of the table. CPU seconds and
memory hardly depend on other load of the machine; rates and times do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

BENCHMARKS_FOLDER = Path(__file__).parent
sys.path[0] = str(BENCHMARKS_FOLDER.parent / "tests")

from measuring import FIGURES_FILE

BENCHMARKS: dict[str, tuple[list[str], list[str]]] = {
    # name: (arguments, arguments of --quick)
    "whole_agent": ([], ["30"]),
    "forwarder": ([], ["5000"]),
    "docker_collector": ([], ["--events", "30000"]),
    "host_packages": ([], ["1000"]),
    "kubernetes_collector": ([], ["--events", "20000", "--listed", "1000,100000"]),
    "latency": ([], []),
}

GOALS = {
    ("whole agent", "start to first event delivered"): "< 3",
    ("whole agent", "idle CPU"): "< 1",
    ("whole agent", "idle memory (PSS)"): "< 200",
    ("forwarder", "CPU for 10,000 events"): "< 0.8",
    ("forwarder", "peak memory"): "< 60",
    ("docker collector", "engine to stream"): "> 10,000",
    ("docker collector", "peak memory"): "< 60",
}

PEERS = {
    # Published figures of other machines and loads: an order of magnitude.
    ("whole agent", "idle CPU"): "Sematext Agent: limit of 80 % of a core (Helm chart 1.9.1)",
    ("whole agent", "idle memory (PSS)"): (
        "Sematext Agent: limit of 512 MiB (Helm chart 1.9.1); "
        "OTel Collector, minimal: 30-50 MB (a blog)"
    ),
    ("forwarder", "peak memory"): "Fluent Bit under load: 42-58 MB (third party)",
    ("forwarder", "pull, post and acknowledge"): (
        "Fluent Bit: 150,000-186,000 lines/s in batches (third party)"
    ),
    ("kubernetes collector", "peak memory, 1,000,000 listed"): (
        "OTel k8s_events: 1.7 GB after an hour of 100 events/s (issue 37233); GCP event-exporter: "
        "800 MB at 5,000 nodes with its store, 17-20 MB without (issue 470)"
    ),
    ("kubernetes collector", "peak memory, 100,000 listed"): (
        "Opsgenie's exporter: out of memory at 18,000-20,000 events an hour (issue 137)"
    ),
    ("kubernetes collector", "watch to stream"): "none publishes a rate",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="fewer events, a few minutes")
    quick = parser.parse_args().quick
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "figures")
        file.touch()
        failed = []
        for name, arguments in BENCHMARKS.items():
            print(f"\n== {name}", flush=True)
            command = [sys.executable, str(BENCHMARKS_FOLDER / f"{name}.py"), *arguments[quick]]
            done = subprocess.run(command, env=os.environ | {FIGURES_FILE: str(file)}, check=False)
            if done.returncode:
                failed.append(name)
        show([json.loads(line) for line in file.read_text().splitlines()])
    if failed:
        sys.exit(f"failed, so without figures here: {', '.join(failed)}")


def show(figures: list[tuple[str, str, float, str]]) -> None:
    """Print the table, with a line for each figure."""
    row = "{:21} {:44} {:>9} {:11} {:>9}  {}"
    print(
        "\n" + row.format("PART", "FIGURE", "MEASURED", "", "GOAL", "PUBLISHED BY PEERS").rstrip()
    )
    for part, figure, value, unit in figures:
        digits = 2 if value < 10 else 0
        goal, peers = GOALS.get((part, figure), ""), PEERS.get((part, figure), "")
        print(row.format(part, figure, f"{value:,.{digits}f}", unit, goal, peers).rstrip())


if __name__ == "__main__":
    main()
