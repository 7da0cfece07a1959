"""The runs of the agent on this host, from one record that outlives each of them.

The record is this collector's cursor: the run, its start, its last heartbeat and its stop. A
heartbeat moves the cursor alone. A start that finds the record of another run without a stop
reports that stop, which was at the last heartbeat or later.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import psutil

from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.translate import (
    RunRecord,
    begin_record,
    continues,
    started_event,
    stopped_event,
)
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import event_id
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

_encode = msgspec.json.encode


async def watch(
    runtime: Runtime[LifecycleSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    """Yield an unreported stop of the previous run, this run's start, heartbeats and stop."""
    clock, origin = runtime.clock, runtime.origin
    identity = runtime.settings.agent_run or process_identity()
    previous, now_ns = decode_record(cursor), clock.wall_ns()
    if previous is not None and continues(previous, identity):
        record = msgspec.structs.replace(previous, alive=now_ns)
        yield Observation(None, _encode(record))
    else:
        if previous is not None and not previous.stopped:
            yield Observation(stopped_event(previous, origin))
        record = begin_record(previous, identity, now_ns)
        yield Observation(started_event(record, origin), _encode(record))
    while not await wait_for_event(runtime.stopping, runtime.settings.heartbeat_interval):
        record = msgspec.structs.replace(record, alive=clock.wall_ns())
        yield Observation(None, _encode(record))
    now_ns = clock.wall_ns()
    record = msgspec.structs.replace(record, alive=now_ns, stopped=now_ns)
    yield Observation(stopped_event(record, origin), _encode(record))


def process_identity() -> str:
    """Return a name of this process: no two ever share boot, host, pid and start time."""
    boot = BOOT_ID.read_text().strip() if BOOT_ID.exists() else psutil.boot_time()
    return event_id(boot, socket.gethostname(), os.getpid(), psutil.Process().create_time())


def decode_record(cursor: bytes | None) -> RunRecord | None:
    """Return the record of the previous run; None if there is none, or it is unreadable."""
    if cursor is None:
        return None
    try:
        return msgspec.json.decode(cursor, type=RunRecord)
    except DECODE_ERRORS as error:
        log.warning("the record of the previous run is ignored: %s", error)
        return None
