"""A run in a process of its own: constants, logging and dead coroutines end with it."""

from __future__ import annotations

import gc
import os
import resource
import traceback

import msgspec
from simulation.oracle import Finding
from simulation.run import Verdict, simulate
from simulation.scenario import Scenario

CPU_SECONDS_MAX = 120
"""A run that takes longer is a finding."""


def run_isolated(scenario: Scenario) -> Verdict:
    """Run `scenario` in a child; a child that crashes is a finding too."""
    reader, writer = os.pipe()
    if (child := os.fork()) == 0:
        os.close(reader)
        _run_child(scenario, writer)
    os.close(writer)
    with open(reader, "rb") as pipe:
        answer = pipe.read()
    _, status = os.waitpid(child, 0)
    if answer:
        return msgspec.json.decode(answer, type=Verdict)
    finding = Finding(
        "ANOMALY", f"the run ended with status {status}, perhaps of {CPU_SECONDS_MAX} s CPU"
    )
    return Verdict(scenario, "", 0, 0, 0, 0, 0, [finding], [])


def _run_child(scenario: Scenario, writer: int) -> None:
    gc.disable()  # it would close coroutines of killed processes, and run their `finally`
    limit = int(resource.getrusage(resource.RUSAGE_SELF).ru_utime) + CPU_SECONDS_MAX
    resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
    try:
        with open(writer, "wb") as pipe:
            pipe.write(msgspec.json.encode(simulate(scenario)))
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(0)
