"""The connection to the engine: opened again and again, it fills the buffer.

A stream may go silent without an end (a peer that is gone, a proxy that swallows it) or drop
messages. So every half minute the engine is asked for its history, and an audit of it finds the
messages that the stream did not bring.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable

from sematext_agent.docker_collector.buffer import EngineBuffer, EngineHistory
from sematext_agent.docker_collector.engine import Engine, EngineError, Snapshot, connect
from sematext_agent.docker_collector.reader import EventStreamReader
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff, Uniform
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

AUDIT_SECONDS = 30.0
SNAPSHOT_DELAY_SECONDS = 1.0
"""Pause before a snapshot, in which messages under way still arrive and need no synthetic event."""
_BACKOFF_SECONDS_MAX = 2
"""Short, because events that an engine forgets while nobody is connected are lost."""
_STEADY_SECONDS = 10
_READER_END_SECONDS_MAX = 5


class EngineConnection:
    """One engine's way into the buffer."""

    def __init__(
        self,
        settings: DockerSettings,
        state: EngineState,
        buffer: EngineBuffer,
        health: Health,
        clock: Clock = SYSTEM_CLOCK,
        uniform: Uniform | None = None,
    ) -> None:
        """Connect to the engine of the settings, once `stay_connected` runs.

        `state` and `buffer` are shared with the pipeline; `uniform` replaces `random.uniform`.
        """
        self._settings = settings
        self._state = state
        self._buffer = buffer
        self._health = health
        self._clock = clock
        self._uniform = uniform
        self._wake = asyncio.Event()
        self._snapshot_requested = False
        self._history_in_buffer = False
        self._reader: EventStreamReader | None = None
        self._logged_condition = ""
        self._connects = health.add_counter("engine_connects", "Times the event stream was opened.")
        health.add_figure(
            "engine_connected",
            "1 while the engine is connected.",
            lambda: self.engine is not None,
        )
        self.engine: Engine | None = None
        """The engine, while it is connected."""

    async def stay_connected(self) -> None:
        """Connect, and connect again, until cancelled; then everything read is in the buffer."""
        backoff = Backoff(0.1, _BACKOFF_SECONDS_MAX, self._uniform)
        while True:
            connecting_at = self._clock.monotonic()
            try:
                await self._connect_once()
            except EngineError as error:
                self._report_failure(error)
            if self._clock.monotonic() - connecting_at > _STEADY_SECONDS:
                backoff.reset()
            await asyncio.sleep(backoff.draw_delay_seconds())

    def request_snapshot(self) -> None:
        """Have a snapshot put into the buffer soon; after a gap it contains inspections."""
        self._snapshot_requested = True
        self._wake.set()

    def mark_history_taken(self) -> None:
        """Allow another history in the buffer, because the last one was taken out."""
        self._history_in_buffer = False

    def reopen_stream(self) -> None:
        """Replace a stream that drops messages by another."""
        if self._reader is not None:
            self._reader.stop()

    async def _connect_once(self) -> None:
        """Keep one connection, from its begin to its end."""
        engine = await asyncio.to_thread(connect, self._settings, self._clock)
        try:
            self.engine = engine
            is_first_run = self._state.is_new
            snapshot = await self._take_snapshot(engine, lambda _, runs: is_first_run and runs)
            # The history comes first, so that a gap precedes the events that follow it. The stream
            # repeats the history, so that nothing is missed between the two.
            await self._put_history(engine, snapshot)
            stream = await asyncio.to_thread(engine.open_stream)
            self._connects.inc()
            self._report_connected(engine)
            self._reader = EventStreamReader(stream, self._buffer, self._wake)
            self._reader.start()
            try:
                await self._serve_requests(engine, self._reader)
            finally:
                self._reader.stop()
                # The thread ends as soon as its socket is shut down, so this blocks but a moment.
                self._reader.join(_READER_END_SECONDS_MAX)
        finally:
            self.engine = None
            engine.close()
        log.debug("stream closed: %s", self._reader.end_reason)

    async def _serve_requests(self, engine: Engine, reader: EventStreamReader) -> None:
        """Put snapshots and audits into the buffer until the stream ends."""
        next_audit_at = self._clock.monotonic() + AUDIT_SECONDS
        while not reader.has_ended:
            await wait_for_event(self._wake, max(0.0, next_audit_at - self._clock.monotonic()))
            self._wake.clear()
            if reader.has_ended:
                break
            if self._snapshot_requested:
                await asyncio.sleep(SNAPSHOT_DELAY_SECONDS)
                self._snapshot_requested = False
                await self._put_snapshot(engine)
            elif self._clock.monotonic() >= next_audit_at:
                next_audit_at = self._clock.monotonic() + AUDIT_SECONDS
                if not self._history_in_buffer:
                    await self._put_history(engine, None)

    async def _take_snapshot(
        self, engine: Engine, inspects: Callable[[str, bool], bool]
    ) -> Snapshot | None:
        """Return what exists; None where a proxy before the engine forbids lists."""
        try:
            return await asyncio.to_thread(engine.snapshot, inspects)
        except EngineError as error:
            if error.status not in (401, 403):
                raise
            log.warning("containers and images not listed: %s", error)
            return None

    async def _put_snapshot(self, engine: Engine) -> None:
        stopped = {
            key for key, container in self._state.containers.items() if not container.running
        }
        is_after_gap = self._state.unreconciled
        snapshot = await self._take_snapshot(
            engine, lambda key, runs: is_after_gap and (runs or key not in stopped)
        )
        if snapshot is not None:
            self._buffer.put(snapshot, 0, 0)

    async def _put_history(self, engine: Engine, snapshot: Snapshot | None) -> None:
        requested_ns = self._clock.wall_ns()
        lines = await asyncio.to_thread(engine.history)
        # Where it does not fit, none of its events are lost with it: the stream brings them too.
        history = EngineHistory(lines, requested_ns, snapshot)
        self._history_in_buffer = self._buffer.put(history, 0, sum(map(len, lines)))

    def _report_connected(self, engine: Engine) -> None:
        text = f"Docker Engine {engine.version}, API {engine.api_version}, at {engine.address}"
        self._health.set_condition("source", True, text)
        if text != self._logged_condition:
            log.info("connected to the %s", text)
        self._logged_condition = text

    def _report_failure(self, error: EngineError) -> None:
        """Report, once, an absent engine, which is normal, or a refusal, which is not."""
        if error.absent:
            text = f"no Docker Engine at {self._state.address}: waiting for one"
        else:
            text = f"the Docker Engine at {self._state.address} cannot be followed: {error}"
        if text != self._logged_condition:
            if error.absent:
                log.info("%s", text)
            else:
                self._health.record_error(text)
        self._logged_condition = text
        self._health.set_condition("source", error.absent, text)
