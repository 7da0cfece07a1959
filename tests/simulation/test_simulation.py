"""The promises of the agent under seeded faults: kept scenarios, and ten seeds."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from simulation.scenario import Scenario, draw, read

TESTS = Path(__file__).parent.parent
SCENARIOS = sorted(Path(__file__).parent.glob("scenarios/*.json"))
FIRST_SEED = int(os.environ.get("SIMULATION_FIRST_SEED", "20000"))
"""The same for everybody while breaks are known: `make simulate SEEDS=…` runs others."""
SEEDS = 10


def simulate(*arguments: str) -> list[dict[str, Any]]:
    """Run scenarios in a process of their own, which they change; return the verdicts."""
    environment = {**os.environ, "PYTHONPATH": str(TESTS), "PYTHONHASHSEED": "0"}
    command = [sys.executable, "-m", "simulation", "--json", *arguments]
    output = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=False).stdout
    return [json.loads(line) for line in output.splitlines()]


def kinds(verdict: dict[str, Any]) -> set[str]:
    """Return the kinds of what the verdict found."""
    return {finding["kind"] for finding in verdict["findings"]}


def is_known(kind: str, scenario: Scenario) -> bool:
    """Return whether a kept scenario breaks in this way by causes that `scenario` has too."""
    return any(
        kept.expected_break == kind and set(kept.causes) <= scenario.traits
        for kept in map(read, SCENARIOS)
    )


@pytest.mark.parametrize("path", SCENARIOS, ids=lambda path: path.stem)
def test_a_kept_scenario_breaks_what_is_expected_and_nothing_else(path: Path) -> None:
    expected = read(path).expected_break
    (verdict,) = simulate(str(path))
    if expected and expected not in kinds(verdict):
        pytest.fail(f"{path.name} no longer breaks {expected}: remove its expected_break")
    assert kinds(verdict) - {expected} == set(), verdict["findings"]


def test_a_run_of_the_same_scenario_has_the_same_history() -> None:
    path = str(SCENARIOS[0])
    (first,), (second,) = simulate(path), simulate(path)
    assert first["digest"] == second["digest"]
    assert first["events"] > 0


@pytest.mark.timeout(180)
def test_seeds_break_nothing_that_no_kept_scenario_is_known_to_break() -> None:
    seeds = range(FIRST_SEED, FIRST_SEED + SEEDS)
    verdicts = simulate(f"{seeds[0]}-{seeds[-1]}")
    assert len(verdicts) == SEEDS
    broken = {
        f"make simulate SEEDS={seed}-{seed}": [
            finding for finding in verdict["findings"] if not is_known(finding["kind"], draw(seed))
        ]
        for seed, verdict in zip(seeds, verdicts, strict=True)
    }
    assert {seed: findings for seed, findings in broken.items() if findings} == {}
