"""One fault after the other, each on a stage of its own: what was lost, told twice, and how soon
everything was as before."""

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
"""So long events go on happening once everything is as before."""


@dataclass(frozen=True)
class Outcome:
    """What came of a fault."""

    fault: str
    told: int = 0
    lost: int = 0
    dead: int = 0
    """Dead letters: refused by the receiver, and kept."""
    copies: int = 0
    """Documents that the receiver stored although it had them."""
    recovery_seconds: float = 0.0
    """From the end of the fault until all that had happened by then was stored."""
    problems: tuple[str, ...] = ()
    """In words, where the goal is missed."""
    skipped: str = ""
    """Why it could not be tried here."""


async def run(fault: Fault, seed: int, folder: Path) -> Outcome:
    """Strikes a stage in `folder` with a fault, and judges what comes of it."""
    stage = Stage(folder, seed)
    oracle = Oracle(stage)
    try:
        async with (fault.scene or _plain)(stage), stage.running(fault.forwarders):
            stage.source.append()
            if not await oracle.until_told(BEGIN_SECONDS_MAX):
                return Outcome(fault.name, problems=("it did not even begin",))
            async with stage.source.flowing():
                await fault.strike(stage)
                healed = time.monotonic()
                recovered = await oracle.until_told(RECOVERY_SECONDS_MAX)
                seconds = time.monotonic() - healed
                await asyncio.sleep(AFTER_SECONDS)
            problems = await _judge(fault, stage, oracle, recovered)
    except Missing as missing:
        return Outcome(fault.name, skipped=str(missing))
    return Outcome(
        fault.name,
        len(stage.source.lines) - oracle.untold(),
        oracle.untold(),
        len(oracle.dead),
        oracle.copies()[0],
        seconds,
        tuple(problems),
    )


@contextlib.asynccontextmanager
async def _plain(stage: Stage) -> AsyncIterator[None]:
    yield


async def _judge(fault: Fault, stage: Stage, oracle: Oracle, recovered: bool) -> list[str]:
    """Waits until all is quiet; what is not as it must be, in words."""
    await oracle.until_told(RECOVERY_SECONDS_MAX if recovered else 1)
    problems = []
    if not await oracle.until_acknowledged(40 if recovered else 1):
        problems.append("some events stay unacknowledged in the stream")
    if lost := oracle.untold():
        problems.append(f"{lost} events lost")
    if untrue := await asyncio.to_thread(oracle.untrue):
        problems.append(f"{untrue} documents that no event stands behind")
    _, unexcused = oracle.copies()
    if unexcused > fault.ended * IN_FLIGHT_MAX:
        problems.append(f"{unexcused} documents told twice without an excuse")
    if any(TOKEN in part.log.read_text() for part in stage.parts if part.log.exists()):
        problems.append("the token stands in a log")
    return problems
