"""The watch of the kernel's log for OOM kills.

Where the log cannot be read the process stays ready, because packages are watched all the same: the
condition `kernel log` holds, its detail is the remedy, which is logged once, and the metric
`kernel_log_readable` is 0, which is what an alert should use. Opening the log is tried again with
every audit of the kernel's counter.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator
from pathlib import Path

from msgspec import structs

from sematext_agent.host_collector.container_names import find_name_and_image
from sematext_agent.host_collector.file_tree import open_tree
from sematext_agent.host_collector.kernel.cursor import CURSOR_NAME, decode_cursor
from sematext_agent.host_collector.kernel.log_reader import (
    KernelLogReader,
    open_device,
    read_boot_id,
)
from sematext_agent.host_collector.kernel.translate import AUDIT_SECONDS, KernelLogTranslator
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.collector import Observation, read_cursor
from sematext_agent.shared.events import OutOfMemory
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)


async def watch(runtime: Runtime[HostSettings]) -> AsyncGenerator[Observation, None]:
    """Yield every kill and every gap after the stored cursor, until `runtime.stopping` is set."""
    cursor = decode_cursor(await read_cursor(runtime, CURSOR_NAME))
    translator = KernelLogTranslator(
        runtime.origin, read_boot_id(), cursor, count_kills, runtime.clock
    )
    for observation in translator.start():
        yield observation
    reader: KernelLogReader | None = None
    is_first_try = True
    try:
        while True:
            is_stopping = runtime.stopping.is_set()
            reader = reader or _open(runtime, log_failure=is_first_try)
            is_first_try = False
            for observation in translator.translate(reader.read() if reader else ()):
                yield _add_container_name(observation, runtime.settings.host_root)
            if reader and not reader.is_drained:
                await asyncio.sleep(0)  # let other tasks run
                continue
            for observation in translator.finish_batch():
                yield observation
            if is_stopping:
                break
            if reader:
                await reader.wait(runtime.stopping, translator.seconds_to_audit)
            else:
                await wait_for_event(runtime.stopping, AUDIT_SECONDS)
        for observation in translator.stop():
            yield observation
    finally:
        if reader:
            reader.close()


def count_kills() -> int | None:
    """Return how many kills the kernel has counted since its start; None before Linux 4.13."""
    for line in Path("/proc/vmstat").read_text().splitlines():
        name, _, value = line.partition(" ")
        if name == "oom_kill":
            return int(value)
    return None


def _add_container_name(observation: Observation, host_root: str) -> Observation:
    """Return the observation with the name of the container that the process lived in.

    The name stays empty where the engine keeps its record in an unusual directory, or has removed
    it already, and where the host's files cannot be read.
    """
    event = observation.event
    if event is None or not isinstance(event.body, OutOfMemory) or not event.body.container_id:
        return observation
    try:
        with open_tree(host_root or "/") as host:
            name, _ = find_name_and_image(host, event.body.container_id)
    except OSError as error:
        log.debug("container of an OOM kill not named: %s", error)
        return observation
    body = structs.replace(event.body, container_name=name)
    return structs.replace(observation, event=structs.replace(event, body=body))


def _open(runtime: Runtime[HostSettings], *, log_failure: bool) -> KernelLogReader | None:
    """Open the kernel's log; return None where it cannot be read, and show the remedy."""
    health, root = runtime.health, runtime.settings.host_root
    reader, detail = None, "followed"
    try:
        descriptor = open_device(["/dev/kmsg", f"{root}/dev/kmsg"])
        reader = KernelLogReader(descriptor, runtime.clock)
    except OSError as error:
        detail = (
            f"OOM kills cannot be named: /dev/kmsg cannot be read: {error.strerror} "
            "(run as root, in a container with `--device /dev/kmsg --cap-add SYSLOG`, "
            "or set OOM_ENABLED=false)"
        )
        if log_failure:
            health.record_error(detail)
    health.set_condition("kernel log", True, detail)
    health.add_figure(
        "kernel_log_readable",
        "1 while the kernel's log can be read.",
        lambda: reader is not None,
    )
    health.add_figure(
        "kernel_log_malformed_records",
        "Records of the kernel's log that could not be parsed.",
        lambda: reader.malformed_records if reader else 0,
    )
    return reader
