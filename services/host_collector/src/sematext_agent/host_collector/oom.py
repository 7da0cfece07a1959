"""Follows the kernel's log for the kills of its out-of-memory killer.

Where the log cannot be read the process stays ready, because the packages of the host are told all
the same: the condition `kernel log` holds and its detail is the remedy, which is logged once, and
`kernel_log_readable` is 0, which is what an alert should look at. Whether the log can be read by
now is tried again with every audit of the kernel's counter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

import msgspec
from msgspec import structs

from sematext_agent.host_collector import kmsg
from sematext_agent.host_collector.kmsg import KernelLog
from sematext_agent.host_collector.oom_follower import AUDIT_SECONDS, PART, Cursor, Follower
from sematext_agent.host_collector.packages.containers import name_and_image
from sematext_agent.host_collector.packages.tree import tree_at
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import OutOfMemory
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

__all__ = ["PART", "watch"]


async def watch(
    runtime: Runtime[HostSettings], stored: bytes | None
) -> AsyncGenerator[Observation, None]:
    """Every kill and every gap, from the stored cursor on, until `runtime.stopping` is set."""
    follower = Follower(runtime.origin, kmsg.boot_id(), _cursor(stored), count_kills)
    stopped = asyncio.create_task(runtime.stopping.wait())
    kernel_log: KernelLog | None = None
    tried = False
    try:
        for observed in follower.begin():
            yield observed
        while True:
            stopping = stopped.done()
            kernel_log = kernel_log or _opened(runtime, told=tried)
            tried = True
            for observed in follower.take(kernel_log.read() if kernel_log else ()):
                yield _named(observed, runtime.settings.host_root)
            if kernel_log and not kernel_log.drained:
                await asyncio.sleep(0)  # others want to run too
                continue
            for observed in follower.drained():
                yield observed
            if stopping:
                break
            if kernel_log:
                await kernel_log.wait(stopped, follower.seconds_to_audit)
            else:
                await asyncio.wait([stopped], timeout=AUDIT_SECONDS)
        for observed in follower.end():
            yield observed
    finally:
        stopped.cancel()
        if kernel_log:
            kernel_log.close()


def count_kills() -> int | None:
    """How many kills the kernel has counted since it was started; None before Linux 4.13."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None


def _named(observed: Observation, host_root: str) -> Observation:
    """The same, with the name of the container that the process lived in.

    It stays empty where the engine keeps its record in an unusual place, or has removed it already,
    and in a host that cannot be read: the kill is told all the same.
    """
    event = observed.event
    if event is None or not isinstance(event.body, OutOfMemory) or not event.body.container_id:
        return observed
    try:
        with tree_at(host_root or "/") as host:
            name, _ = name_and_image(host, event.body.container_id)
    except OSError as error:
        log.debug("%s", error)
        return observed
    body = structs.replace(event.body, container_name=name)
    return structs.replace(observed, event=structs.replace(event, body=body))


def _cursor(stored: bytes | None) -> Cursor | None:
    try:
        return msgspec.json.decode(stored, type=Cursor) if stored else None
    except DECODE_ERRORS as error:
        log.warning("the stored cursor cannot be read, kills before now are not told: %s", error)
        return None


def _opened(runtime: Runtime[HostSettings], *, told: bool) -> KernelLog | None:
    """The kernel's log, or None where it cannot be read, with the remedy unless `told` before."""
    health, root = runtime.health, runtime.settings.host_root
    kernel_log, detail = None, "followed"
    try:
        kernel_log = KernelLog(kmsg.open_device(["/dev/kmsg", f"{root}/dev/kmsg"]))
    except OSError as error:
        detail = (
            f"OOM kills cannot be named, /dev/kmsg cannot be read ({error.strerror}): "
            "run as root, in a container with `--device /dev/kmsg --cap-add SYSLOG`, "
            "or set OOM_ENABLED=false"
        )
        if not told:
            health.record_error(detail)
    health.set_condition("kernel log", True, detail)
    health.add_figure(
        "kernel_log_readable",
        "1 while the kernel's log can be read.",
        lambda: kernel_log is not None,
    )
    health.add_figure(
        "kernel_log_malformed_records",
        "Records that could not be read since it was opened.",
        lambda: kernel_log.malformed if kernel_log else 0,
    )
    return kernel_log
