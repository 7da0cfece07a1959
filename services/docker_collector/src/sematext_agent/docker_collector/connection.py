"""Stays connected to the engine: finds it, follows its stream, and checks that nothing is missed.

It fills the backlog and touches nothing else. The stream may go silent without an end (a peer that
is gone, a proxy that swallows it) or drop messages without a word, so every half minute the
engine is asked what it remembers: what the stream did not bring is found in it.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable

from sematext_agent.docker_collector import engine as engines
from sematext_agent.docker_collector.backlog import Backlog, Reader, Ring
from sematext_agent.docker_collector.engine import Engine, EngineError, Snapshot
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import State
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff

log = logging.getLogger(__name__)

AUDIT_SECONDS = 30.0
SETTLE_SECONDS = 1.0
"""How long after a gap the containers are listed: what is under way can then be told first."""
_RETRY_SECONDS_MAX = 2
"""Short, because what an engine forgets while nobody is connected is lost."""
_STEADY_SECONDS = 10
_STOP_SECONDS_MAX = 5


class Connection:
    """The way from one engine into the backlog."""

    def __init__(
        self, settings: DockerSettings, state: State, backlog: Backlog, health: Health
    ) -> None:
        self._settings = settings
        self._state = state
        self._backlog = backlog
        self._health = health
        self._attention = asyncio.Event()
        self._snapshot_wanted = False
        self._ring_in_backlog = False
        self._reader: Reader | None = None
        self._said = ""
        self._connects = health.add_counter("engine_connects", "Times the event stream was opened.")
        health.add_figure(
            "engine_connected", "1 while the engine is followed.", lambda: self.engine is not None
        )
        self.engine: Engine | None = None
        """The engine, while it is connected."""

    async def keep(self) -> None:
        """Connects, and connects again, for ever. What was read is in the backlog when it ends."""
        backoff = Backoff(0.1, _RETRY_SECONDS_MAX)
        while True:
            began = time.monotonic()
            try:
                await self._connected()
            except EngineError as error:
                self._say_why_not(error)
            if time.monotonic() - began > _STEADY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.draw_delay_seconds())

    def want_snapshot(self) -> None:
        """Asks for a Snapshot in the backlog, in a moment; after a gap, a close one."""
        self._snapshot_wanted = True
        self._attention.set()

    def ring_taken(self) -> None:
        """The last Ring has been taken out of the backlog."""
        self._ring_in_backlog = False

    def renew(self) -> None:
        """The stream does not bring what happens: opens another."""
        if self._reader is not None:
            self._reader.stop()

    async def _connected(self) -> None:
        """One connection, from its begin to its end."""
        engine = await asyncio.to_thread(engines.connect, self._settings)
        try:
            self.engine = engine
            is_new = self._state.is_new
            snapshot = await self._list(engine, lambda _, running: is_new and running)
            # The memory comes first, so that a gap is noticed before what follows it is told; the
            # stream brings the memory once more, and so leaves nothing out between the two.
            await self._put_ring(engine, snapshot)
            stream = await asyncio.to_thread(engine.follow)
            self._connects.inc()
            self._say_connected(engine)
            self._reader = Reader(stream, self._backlog, self._attention)
            self._reader.start()
            try:
                await self._serve(engine, self._reader)
            finally:
                self._reader.stop()
                # It ends as soon as its socket is shut down, and so blocks for no time to speak of.
                self._reader.join(_STOP_SECONDS_MAX)
        finally:
            self.engine = None
            engine.close()
        log.debug("the stream ended: %s", self._reader.why)

    async def _serve(self, engine: Engine, reader: Reader) -> None:
        """What is to be asked beside the stream, until it ends."""
        next_audit = time.monotonic() + AUDIT_SECONDS
        while not reader.ended:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, next_audit - time.monotonic())):
                    await self._attention.wait()
            self._attention.clear()
            if reader.ended:
                break
            if self._snapshot_wanted:
                await asyncio.sleep(SETTLE_SECONDS)
                self._snapshot_wanted = False
                await self._put_snapshot(engine)
            elif time.monotonic() >= next_audit:
                next_audit = time.monotonic() + AUDIT_SECONDS
                if not self._ring_in_backlog:
                    await self._put_ring(engine, None)

    async def _list(self, engine: Engine, closer: Callable[[str, bool], bool]) -> Snapshot | None:
        """What exists; None where a proxy before the engine does not let it be listed."""
        try:
            return await asyncio.to_thread(engine.snapshot, closer)
        except EngineError as error:
            if error.status not in (401, 403):
                raise
            log.warning("containers and images cannot be listed: %s", error)
            return None

    async def _put_snapshot(self, engine: Engine) -> None:
        at_rest = {key for key, seen in self._state.containers.items() if not seen.running}
        after_a_gap = self._state.unreconciled
        snapshot = await self._list(
            engine, lambda key, running: after_a_gap and (running or key not in at_rest)
        )
        if snapshot is not None:
            self._backlog.put(snapshot, 0, 0)

    async def _put_ring(self, engine: Engine, snapshot: Snapshot | None) -> None:
        moment = time.time_ns()
        lines = await asyncio.to_thread(engine.ring)
        # Where it does not fit, none of its events are lost with it: the stream brings them too.
        ring = Ring(lines, moment, snapshot)
        self._ring_in_backlog = self._backlog.put(ring, 0, sum(map(len, lines)))

    def _say_connected(self, engine: Engine) -> None:
        text = f"Docker Engine {engine.version}, API {engine.api_version}, at {engine.address}"
        self._health.set_condition("source", True, text)
        if text != self._said:
            log.info("connected to the %s", text)
        self._said = text

    def _say_why_not(self, error: EngineError) -> None:
        """An absent engine is normal and said once; one that refuses is not."""
        if error.absent:
            text = f"no Docker Engine at {self._state.address}: waiting for one"
        else:
            text = f"the Docker Engine at {self._state.address} cannot be followed: {error}"
        if text != self._said:
            if error.absent:
                log.info("%s", text)
            else:
                self._health.record_error(text)
        self._said = text
        self._health.set_condition("source", error.absent, text)
