"""A fault on a stage of its own: losses, duplicates, and the time until recovery."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

from chaos.fault import IN_FLIGHT_MAX, Fault, Missing
from chaos.oracle import Oracle
from chaos.stage import Stage
from receiver import TOKEN

BEGIN_SECONDS_MAX = 60
RECOVERY_SECONDS_MAX = 600
AFTER_SECONDS = 1.0
"""Time for which events go on after the recovery."""


@dataclass(frozen=True)
class Outcome:
    """The outcome of a fault."""

    fault: str
    delivered: int = 0
    lost: int = 0
    dead: int = 0
    """Dead letters: refused by the receiver, and kept."""
    copies: int = 0
    """Documents that the receiver stored a second time."""
    recovery_seconds: float = 0.0
    """From the end of the fault until all events until then were stored."""
    problems: tuple[str, ...] = ()
    """Missed goals."""
    skipped: str = ""
    """The reason where this machine cannot cause the fault."""


async def run(fault: Fault, seed: int, folder: Path) -> Outcome:
    """Cause a fault on a stage in `folder` and return its outcome."""
    stage = Stage(folder, seed)
    oracle = Oracle(stage)
    try:
        async with (fault.scene or _plain)(stage), stage.running(fault.forwarders):
            stage.source.append()
            if not await oracle.wait_for_delivery(BEGIN_SECONDS_MAX):
                return Outcome(fault.name, problems=("nothing was delivered before the fault",))
            async with stage.source.flowing():
                await fault.strike(stage)
                healed = time.monotonic()
                recovered = await oracle.wait_for_delivery(RECOVERY_SECONDS_MAX)
                seconds = time.monotonic() - healed
                await asyncio.sleep(AFTER_SECONDS)
            problems = await _judge(fault, stage, oracle, recovered)
    except Missing as missing:
        return Outcome(fault.name, skipped=str(missing))
    return Outcome(
        fault.name,
        len(stage.source.lines) - oracle.count_undelivered(),
        oracle.count_undelivered(),
        len(oracle.dead),
        oracle.copies()[0],
        seconds,
        tuple(problems),
    )


@contextlib.asynccontextmanager
async def _plain(stage: Stage) -> AsyncIterator[None]:
    yield


async def _judge(fault: Fault, stage: Stage, oracle: Oracle, recovered: bool) -> list[str]:
    """Wait until all is delivered and acknowledged; return the missed goals."""
    await oracle.wait_for_delivery(RECOVERY_SECONDS_MAX if recovered else 1)
    problems = []
    if not await oracle.wait_for_acknowledgements(40 if recovered else 1):
        problems.append("some events stay unacknowledged in the stream")
    if lost := oracle.count_undelivered():
        problems.append(f"{lost} events lost")
    if false := await asyncio.to_thread(oracle.count_false_documents):
        problems.append(f"{false} documents that no event explains")
    _, unexcused = oracle.copies()
    if unexcused > fault.ended * IN_FLIGHT_MAX:
        problems.append(f"{unexcused} documents duplicated without an excuse")
    if any(TOKEN in part.log.read_text() for part in stage.parts if part.log.exists()):
        problems.append("the token stands in a log")
    return problems
