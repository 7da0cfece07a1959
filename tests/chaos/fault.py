"""The description of a fault."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass

from chaos.stage import Stage

Strike = Callable[[Stage], Awaitable[None]]
"""Cause of a fault on a running stage, and its end; the recovery is timed from its return."""
Scene = Callable[[Stage], AbstractAsyncContextManager[None]]
"""Preparation that a fault needs before anything runs, such as a disk of its own."""

IN_FLIGHT_MAX = 128
"""Largest number of POSTs that a forwarder has in flight."""
PAUSE_SECONDS = 1.0
"""Longest pause before a strike."""


class Missing(Exception):  # noqa: N818
    """Something that a fault needs is not on this machine; the text names it."""


@dataclass(frozen=True)
class Fault:
    """A fault that a stage can be struck with."""

    name: str
    strike: Strike
    ended: int = 0
    """Number of forwarders that end, or lose their leases, while answers are under way to them.
    The events in flight then may be delivered twice."""
    scene: Scene | None = None
    forwarders: int = 1
    quick: bool = False
    """Whether `make test-all` causes it too."""


async def pause(stage: Stage) -> None:
    """Let some of the load pass."""
    await asyncio.sleep(stage.random.uniform(0.3, PAUSE_SECONDS))
