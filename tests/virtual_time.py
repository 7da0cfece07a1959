"""Time that a test moves: a clock, and an event loop that sleeps without waiting.

A test marked `virtual_time` runs on a `VirtualTimeLoop`: an hour of `asyncio.sleep` takes no time.
It fits code of one process without sockets; nats-servers and other processes keep real time.
"""

from __future__ import annotations

import asyncio
import selectors
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any

WALL_START_NS = 1_800_000_000_000_000_000
"""The wall time at the start of every test: 2027-01-15."""


class ManualClock:
    """A `shared.clock.Clock` that stands still until a test moves it.

    With the `time` of a `VirtualTimeLoop` as its source it follows the sleeps of that loop as well.
    """

    def __init__(self, source: Callable[[], float] = lambda: 0.0) -> None:
        self._source = source
        self._advanced_seconds = 0.0
        self._suspended_seconds = 0.0
        self._wall_step_ns = 0

    def monotonic(self) -> float:
        """Return seconds that only `advance` and the source move."""
        return self._source() + self._advanced_seconds

    def boottime(self) -> float:
        """Return the seconds of `monotonic` and those of every suspension."""
        return self.monotonic() + self._suspended_seconds

    def wall_ns(self) -> int:
        """Return nanoseconds since the epoch, with every step so far."""
        return WALL_START_NS + self._wall_step_ns + round(self.boottime() * 1e9)

    def advance(self, seconds: float) -> None:
        """Let time pass on all three clocks."""
        self._advanced_seconds += seconds

    def suspend(self, seconds: float) -> None:
        """Let time pass as on a suspended machine: `monotonic` stands still."""
        self._suspended_seconds += seconds

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back where `seconds` is negative."""
        self._wall_step_ns += round(seconds * 1e9)


class VirtualTimeLoop(asyncio.SelectorEventLoop):
    """An event loop whose time jumps to the next timer as soon as nothing else can run.

    While a thread of an executor works, time stands still, so no timeout overtakes it.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self.jobs_running = 0
        super().__init__(_JumpingSelector(self))

    def time(self) -> float:
        """Return the virtual seconds since the loop was made."""
        return self.now

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """Run `func` in a thread, during which time stands still."""
        job = super().run_in_executor(executor, func, *args)
        self.jobs_running += 1
        job.add_done_callback(self._finish_job)
        return job

    def _finish_job(self, _: object) -> None:
        self.jobs_running -= 1


class _JumpingSelector(selectors.DefaultSelector):
    """A selector that lets the time of its loop pass in place of waiting."""

    def __init__(self, loop: VirtualTimeLoop) -> None:
        super().__init__()
        self._loop = loop

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        if timeout is None or timeout <= 0:
            return super().select(timeout)
        if self._loop.jobs_running:
            return super().select(None)  # the end of a thread wakes the loop
        ready = super().select(0)
        if not ready:
            self._loop.now += timeout
        return ready
