"""`make simulate`: the real code under seeded faults, in simulated time.

    make simulate SEEDS=20            the seeds 0 to 19
    make simulate SEEDS=100-200       those of a span
    make simulate SEEDS=some.json     one kept scenario

Exits with 1 where a promise was broken; `--keep` writes each such scenario to a file. A scenario
replays exactly as long as the code under test stays; a seed only as long as `draw` stays too.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import msgspec
from simulation.isolated import run_isolated
from simulation.run import Verdict
from simulation.scenario import draw, read
from simulation.shrink import describe, shrink


def keep(verdict: Verdict, folder: Path, is_shrunk: bool) -> None:
    """Write the scenario of `verdict` to a file for each kind of finding."""
    for kind in sorted(verdict.kinds):
        scenario, runs = shrink(verdict.scenario, kind) if is_shrunk else (verdict.scenario, 0)
        path = folder / f"{kind.lower()}_{scenario.seed}.json"
        path.write_bytes(msgspec.json.format(msgspec.json.encode(scenario), indent=1) + b"\n")
        print(f"  kept as {path} after {runs} runs: {describe(scenario)}", flush=True)


def main() -> int:
    """Read the arguments, run, and return the exit status."""
    parser = argparse.ArgumentParser(prog="make simulate", description=__doc__)
    parser.add_argument("seeds", nargs="?", default="10", help="a number, a span or a file")
    parser.add_argument("--history", action="store_true", help="print every line")
    parser.add_argument("--json", action="store_true", help="print verdicts for a program")
    parser.add_argument("--keep", type=Path, help="a folder for scenarios that break something")
    parser.add_argument(
        "--shrink", action="store_true", help="shrink what breaks before it is kept"
    )
    options = parser.parse_args()
    if options.seeds.endswith(".json"):
        scenarios = [read(Path(options.seeds))]
    else:
        first, _, last = options.seeds.rpartition("-")
        scenarios = [draw(seed) for seed in range(int(first or 0), int(last) + bool(first))]
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    broken = 0
    for scenario in scenarios:
        begun = time.monotonic()
        verdict = run_isolated(scenario)
        broken += bool(verdict.findings)
        if options.json:
            summary = msgspec.structs.replace(verdict, history=[])
            print(msgspec.json.encode(summary).decode(), flush=True)
            continue
        if options.history:
            print(*verdict.history, sep="\n")
        print(
            f"seed {scenario.seed} {verdict.digest} {verdict.events} events, {verdict.posts} posts,"
            f" {verdict.excused_copies} in flight, {verdict.forgotten_copies} forgotten,"
            f" {verdict.seconds:.0f} simulated s in {time.monotonic() - begun:.1f} s:"
            f" {' '.join(sorted(verdict.kinds)) or 'ok'}",
            flush=True,
        )
        for finding in verdict.findings[:5]:
            print(f"  {finding.kind}: {finding.text}", flush=True)
        if verdict.findings and options.keep:
            keep(verdict, options.keep, options.shrink)
    if not options.json:
        print(f"{len(scenarios)} runs, {broken} broke a promise")
    return int(bool(broken))


if __name__ == "__main__":
    if os.environ.get("PYTHONHASHSEED") != "0":  # sets of texts have an order of their own
        os.execve(sys.executable, [*sys.orig_argv], {**os.environ, "PYTHONHASHSEED": "0"})
    sys.exit(main())
