"""Simulated time: one heap of timers, and an event loop of its own for each simulated process.

The world runs one batch of one loop at a time, and the seed decides which. A process that is killed
is a loop that is never run again: its `finally` blocks do not run, as in reality.
"""

from __future__ import annotations

import asyncio
import contextvars
import hashlib
import heapq
import itertools
import random
import sys
from collections import deque
from collections.abc import Callable, Coroutine, Generator
from typing import Any

STEPS_PER_MOMENT_MAX = 200_000
"""Callbacks without any time passing, beyond which a process is taken to spin."""

_task_numbers = itertools.count()


class NumberedTask(asyncio.Task[Any]):
    """A task whose place in a set depends on the order of creation and not on its address."""

    def __init__(self, coro: Any, **options: Any) -> None:
        self._number = next(_task_numbers)
        super().__init__(coro, **options)

    def __hash__(self) -> int:
        return self._number


class AnomalyError(Exception):
    """A thing that must not happen in the code under test, whatever the faults."""


class World:
    """The clock, the timers and the history of one simulation."""

    def __init__(self, seed: int) -> None:
        self.now = 0.0
        self.seed = seed
        self.history: list[str] = []
        self.anomalies: list[str] = []
        self.loops: list[ProcessLoop] = []
        self._digest = hashlib.sha256()
        self._random = self.stream("scheduler")
        self._numbers = itertools.count()
        self._timers: list[tuple[float, int, ProcessLoop | None, Any]] = []

    def stream(self, name: str) -> random.Random:
        """Return the random numbers of `name`: what is removed elsewhere does not change them."""
        return random.Random(f"{self.seed}/{name}")

    def record(self, text: str) -> None:
        """Add a line to the history."""
        line = f"{self.now:.6f} {text}"
        self.history.append(line)
        self._digest.update(line.encode(errors="replace"))

    def report_anomaly(self, text: str) -> None:
        """Record something that must not happen."""
        self.record(f"ANOMALY {text}")
        self.anomalies.append(text)

    @property
    def digest(self) -> str:
        """The hash of the whole history."""
        return self._digest.hexdigest()[:16]

    def call_at(self, when: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call `callback` outside of any process, at the time `when`."""
        entry = (max(when, self.now), next(self._numbers), None, (callback, arguments))
        heapq.heappush(self._timers, entry)

    def call_later(self, seconds: float, callback: Callable[..., object], *arguments: Any) -> None:
        """Call `callback` outside of any process, after `seconds`."""
        self.call_at(self.now + seconds, callback, *arguments)

    def add_timer(self, loop: ProcessLoop, handle: asyncio.TimerHandle) -> None:
        """Take in a timer of a process."""
        heapq.heappush(self._timers, (handle.when(), next(self._numbers), loop, handle))

    def run(self, until: float) -> None:
        """Let time pass up to `until`."""
        hooks = sys.get_asyncgen_hooks()
        sys.set_asyncgen_hooks(firstiter=None, finalizer=_close_generator)
        try:
            while self._run_ready() and self._timers and self._timers[0][0] <= until:
                self._run_timer()
            self.now = max(self.now, until)
        finally:
            sys.set_asyncgen_hooks(*hooks)

    def _run_ready(self) -> bool:
        """Run every loop until none has anything to do now."""
        for _ in range(STEPS_PER_MOMENT_MAX):
            ready = [loop for loop in self.loops if loop.ready and not loop.is_frozen]
            if not ready:
                return True
            (ready[0] if len(ready) == 1 else self._random.choice(ready)).run_batch()
        raise AnomalyError(f"a process spins: {self.loops!r}")

    def _run_timer(self) -> None:
        when, _, loop, item = heapq.heappop(self._timers)
        self.now = max(self.now, when)
        if loop is None:
            callback, arguments = item
            callback(*arguments)
        elif not item.cancelled() and not loop.is_dead:
            loop.ready.append(item)


class ProcessLoop(asyncio.AbstractEventLoop):
    """The event loop of one incarnation of a simulated process."""

    def __init__(self, world: World, name: str) -> None:
        self.world = world
        self.name = name
        self.ready: deque[asyncio.Handle] = deque()
        self.signal_handlers: dict[int, tuple[Callable[..., object], tuple[Any, ...]]] = {}
        self.is_frozen = False
        self.is_dead = False
        self.tasks: list[NumberedTask] = []
        world.loops.append(self)

    def __repr__(self) -> str:
        return self.name

    def run_batch(self) -> None:
        """Run what is ready now, and not what becomes ready by it."""
        asyncio._set_running_loop(self)
        try:
            for _ in range(len(self.ready)):
                if self.is_dead:
                    return
                handle = self.ready.popleft()
                if not handle.cancelled():
                    handle._run()
        finally:
            asyncio._set_running_loop(None)

    def kill(self) -> None:
        """Never run again; nothing of it is closed."""
        self.is_dead = True
        self.ready.clear()
        self.world.loops.remove(self)
        _graveyard.append(self)  # closing its coroutines would run their `finally`

    def time(self) -> float:
        return self.world.now

    def call_soon(  # type: ignore[override]
        self,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self.is_dead:
            self.ready.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        self.world.add_timer(self, handle)
        return handle

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: contextvars.Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.world.now + delay, callback, *args, context=context)

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(
        self,
        coro: Generator[Any, None, Any] | Coroutine[Any, Any, Any],
        *,
        name: str | None = None,
        context: contextvars.Context | None = None,
    ) -> NumberedTask:
        return NumberedTask(coro, loop=self, name=name, context=context)

    def add_signal_handler(  # type: ignore[override]
        self, sig: int, callback: Callable[..., object], *args: Any
    ) -> None:
        self.signal_handlers[sig] = callback, args

    def add_reader(  # type: ignore[override]
        self, fd: Any, callback: Callable[..., Any], *args: Any
    ) -> None:
        """Watch nothing: nobody connects to the health port here."""

    def remove_reader(self, fd: Any) -> bool:
        return True

    def is_running(self) -> bool:
        return asyncio._get_running_loop() is self

    def is_closed(self) -> bool:
        return False

    def get_debug(self) -> bool:
        return False

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.world.report_anomaly(f"{self.name}: {context.get('message')}: {error!r}")

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """Leave the handle in the heap, which skips it."""


_graveyard: list[ProcessLoop] = []


def _close_generator(generator: Any) -> None:
    loop = asyncio._get_running_loop()
    if loop is not None:
        loop.create_task(generator.aclose())
