"""`make chaos`: every fault, and a table of the outcomes.

    make chaos ARGS='SIGKILL disk'        faults with one of the words in their name
    make chaos ARGS='--seed 7'            the moments and sizes of an earlier run

Exits with 1 where an event was lost, or duplicated without an excuse.
"""

from __future__ import annotations

import argparse
import asyncio
import logging
import random
import sys
import tempfile
from pathlib import Path

from chaos import answers, processes
from chaos.campaign import Outcome, run
from chaos.fault import Fault

FAULTS = (*processes.FAULTS, *answers.FAULTS)
_COLUMNS = f"{'fault':<38} {'events':>6} {'lost':>5} {'dead':>5} {'copies':>6} {'recovered':>10}"


async def campaign(faults: list[Fault], seed: int, at_once: int, folder: Path) -> list[Outcome]:
    """Cause all faults, `at_once` side by side, and print a line for each outcome."""
    turns = asyncio.Semaphore(at_once)

    async def turn(number: int, fault: Fault) -> Outcome:
        async with turns:
            stage_folder = folder / str(number)
            stage_folder.mkdir(parents=True)
            outcome = await run(fault, seed + number, stage_folder)
            print(summarize(outcome), flush=True)
            return outcome

    return await asyncio.gather(*(turn(number, fault) for number, fault in enumerate(faults)))


def summarize(outcome: Outcome) -> str:
    """Return a line of the table, and one more for each problem."""
    if outcome.skipped:
        return f"{outcome.fault:<38} skipped: {outcome.skipped}"
    line = (
        f"{outcome.fault:<38} {outcome.delivered:>6} {outcome.lost:>5} {outcome.dead:>5} "
        f"{outcome.copies:>6} {outcome.recovery_seconds:>8.1f} s"
    )
    return "\n".join([line, *(f"  ! {problem}" for problem in outcome.problems)])


def main() -> int:
    """Run the campaign of the command line and return the exit status."""
    parser = argparse.ArgumentParser(prog="make chaos", description=__doc__)
    parser.add_argument("words", nargs="*", help="only faults with one of them in their name")
    parser.add_argument("--seed", type=int, default=random.randrange(1_000_000))
    parser.add_argument("--at-once", type=int, default=2, help="number of stages side by side")
    parser.add_argument("--keep", type=Path, help="a new folder for the logs of all processes")
    options = parser.parse_args()
    logging.getLogger("asyncio").setLevel(logging.ERROR)  # lost connections are expected
    faults = [
        fault
        for fault in FAULTS
        if not options.words or any(word in fault.name for word in options.words)
    ]
    print(f"seed {options.seed}\n{_COLUMNS}", flush=True)
    with tempfile.TemporaryDirectory() as temporary:
        folder = options.keep or Path(temporary)
        outcomes = asyncio.run(campaign(faults, options.seed, options.at_once, folder))
    missed = [outcome for outcome in outcomes if outcome.problems]
    print(f"{len(outcomes)} faults, {len(missed)} missed the goal")
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
