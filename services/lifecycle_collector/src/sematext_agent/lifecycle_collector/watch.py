"""The runs of the agent on this host, told from one record that outlives each of them.

The record is this collector's cursor: which run, when it started, when it was last alive, and
whether it was told to stop. A heartbeat moves the cursor alone. A start that finds the record of
another run without a stop knows that nobody could tell that stop, and when it was at the earliest.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import time
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil

from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import (
    AgentLifecycle,
    Event,
    Nanoseconds,
    event_id,
    format_rfc3339,
)
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Record(msgspec.Struct, frozen=True):
    """One run of the agent. Times are nanoseconds since the epoch, 0 where there is none yet."""

    run: str
    identity: str
    """What the run was named after; see `name_after`."""
    started: Nanoseconds
    alive: Nanoseconds
    stopped: Nanoseconds = 0


async def watch(
    runtime: Runtime[LifecycleSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    """The start of this run, its heartbeat and its stop; first a stop that nobody told."""
    previous = _read(cursor)
    now = time.time_ns()
    identity = runtime.settings.agent_run or process_identity()
    if previous is not None and not previous.stopped and previous.identity == identity:
        record = msgspec.structs.replace(previous, alive=now)
        yield Observation(None, msgspec.json.encode(record))
    else:
        if previous is not None and not previous.stopped:
            yield Observation(_stopped(previous, previous.alive, runtime.origin, clean=False))
        record = Record(name_after(previous, identity), identity, started=now, alive=now)
        yield Observation(_started(record, runtime.origin), msgspec.json.encode(record))
    while not await _is_set_within(runtime.stopping, runtime.settings.heartbeat_interval):
        record = msgspec.structs.replace(record, alive=time.time_ns())
        yield Observation(None, msgspec.json.encode(record))
    now = time.time_ns()
    record = msgspec.structs.replace(record, alive=now, stopped=now)
    yield Observation(
        _stopped(record, now, runtime.origin, clean=True), msgspec.json.encode(record)
    )


def name_after(previous: Record | None, identity: str) -> str:
    """The name of a run that begins now, after `previous`.

    It is the identity itself, unless a stop was told under that name already, because this part
    alone was told to stop and started again: the next run is then named after that stop as well,
    or the stream would take its events for copies.
    """
    if previous is not None and previous.stopped and previous.identity == identity:
        return f"{identity}.{previous.stopped}"
    return identity


def process_identity() -> str:
    """Names this process among all that ever ran: no two share boot, host, pid and start time."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else psutil.boot_time()
    return event_id(boot, socket.gethostname(), os.getpid(), psutil.Process().create_time())


def _read(cursor: bytes | None) -> Record | None:
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(cursor, type=Record)
    except DECODE_ERRORS as error:
        log.warning(
            "the record of the previous run cannot be read, so it counts as none: %s", error
        )
        return None


def _started(record: Record, origin: str) -> Event:
    body = AgentLifecycle(state="started", run=record.run)
    return _event(body, record.started, origin)


def _stopped(record: Record, time_ns: int, origin: str, clean: bool) -> Event:
    body = AgentLifecycle(state="stopped", run=record.run, clean=clean)
    return _event(body, time_ns, origin)


def _event(body: AgentLifecycle, time_ns: int, origin: str) -> Event:
    return Event(
        id=event_id("lifecycle", origin, body.run, body.state),
        time=format_rfc3339(time_ns),
        origin=origin,
        agent=AGENT_VERSION,
        body=body,
    )


async def _is_set_within(event: asyncio.Event, seconds: float) -> bool:
    """Whether `event` is set, after waiting for it for `seconds` at most."""
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
    return event.is_set()
