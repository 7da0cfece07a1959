"""What can go wrong: how a fault is described."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from chaos.stage import Stage

Strike = Callable[[Stage], Awaitable[None]]
"""Does the fault to a running stage and takes it back; the recovery is timed from its return."""
Scene = Callable[[Stage], AbstractAsyncContextManager[None]]
"""Sets up what a fault needs before anything runs, such as a disk of its own."""

IN_FLIGHT_MAX = 128
"""How many POSTs a forwarder has in flight, at most."""
PAUSE_SECONDS = 1.0
"""How long after one strike the next one comes, at most."""


class Missing(Exception):  # noqa: N818
    """This machine has not what the fault takes; the text says what."""


@dataclass(frozen=True)
class Fault:
    """One thing that goes wrong."""

    name: str
    strike: Strike
    ended: int = 0
    """How many forwarders end, or are taken for dead, while answers are on their way to them. What
    was in flight then may be told twice."""
    scene: Scene | None = None
    forwarders: int = 1
    quick: bool = False
    """Whether `make test` has it too."""


async def pause(stage: Stage) -> None:
    """Some of the load goes by."""
    await asyncio.sleep(stage.random.uniform(0.3, PAUSE_SECONDS))
