"""A smaller scenario that breaks the same promise.

Each process and each part has random numbers of its own, so what is removed leaves the rest as it
was.
"""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
from simulation.isolated import run_isolated
from simulation.scenario import Scenario

RUNS_MAX = 45


def shrink(scenario: Scenario, kind: str, runs_max: int = RUNS_MAX) -> tuple[Scenario, int]:
    """Return the smallest scenario found that has a finding of `kind`, and the runs it took."""
    runs = 0
    is_smaller = True
    while is_smaller:
        is_smaller = False
        for candidate in _candidates(scenario):
            if runs >= runs_max:
                return scenario, runs
            runs += 1
            if kind in run_isolated(candidate).kinds:
                scenario, is_smaller = candidate, True
                break
    return scenario, runs


def _candidates(scenario: Scenario) -> Iterator[Scenario]:
    """Yield every scenario that is smaller by one step, the greatest steps first."""
    replace = msgspec.structs.replace
    faults = scenario.faults
    for half in (faults[: len(faults) // 2], faults[len(faults) // 2 :]):
        if len(faults) > 3:
            yield replace(scenario, faults=half)
    for index in range(len(faults)):
        if len(faults) > 1:
            yield replace(scenario, faults=faults[:index] + faults[index + 1 :])
    if scenario.constants:
        yield replace(scenario, constants={})
    if scenario.refused_every:
        yield replace(scenario, refused_every=0)
    targets = {fault.target for fault in faults}
    if (fewer := scenario.collectors - 1) and f"collector{fewer}" not in targets:
        yield replace(scenario, collectors=fewer)
    if (fewer := scenario.forwarders - 1) and f"forwarder{fewer}" not in targets:
        yield replace(scenario, forwarders=fewer)
    if faults and scenario.seconds > faults[-1].at + 60:
        yield replace(scenario, seconds=faults[-1].at + 30)
    if scenario.rate > 1:
        yield replace(scenario, rate=round(scenario.rate / 2, 2))


def describe(scenario: Scenario) -> str:
    """Return the scenario in one line."""
    faults = ", ".join(
        f"{fault.at:g} {fault.kind} {fault.target} {fault.seconds:g} s {fault.value:g}"
        for fault in scenario.faults
    )
    return (
        f"{scenario.collectors} collectors, {scenario.forwarders} forwarders, {scenario.rate:g}/s, "
        f"{scenario.seconds:g} s, {len(scenario.constants)} constants: {faults}"
    )
