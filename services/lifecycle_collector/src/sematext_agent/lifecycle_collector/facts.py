"""The facts of this host, stored in the bucket `hosts` for the enrichment of its events."""

from __future__ import annotations

import asyncio
import logging
import platform
from pathlib import Path

import msgspec
import psutil

from sematext_agent.lifecycle_collector import cloud
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.virtualization import detect_virtualization
from sematext_agent.lifecycle_collector.watch import BOOT_ID
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.retry import Backoff, retry
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import HOSTS_BUCKET, bucket_key

log = logging.getLogger(__name__)


async def maintain_facts(runtime: Runtime[LifecycleSettings]) -> None:
    """Store the facts at start and again at every interval; never return.

    The machine's own facts are stored at once. The cloud is asked afterwards, because outside of
    any cloud a request to its address may never be answered.
    """
    settings = runtime.settings
    cloud_facts: dict[str, str] = {}
    while True:
        facts = read_host_facts(runtime.origin, settings.host_root)
        await _store(runtime, facts, cloud_facts)
        if settings.cloud_metadata_enabled:
            answer = await cloud.read_cloud_facts(settings.cloud_metadata_url)
            if answer and answer != cloud_facts:
                cloud_facts = answer
                log.info("running in the cloud %s", cloud_facts["cloud_provider"])
                await _store(runtime, facts, cloud_facts)
        await asyncio.sleep(settings.host_facts_interval)


async def _store(
    runtime: Runtime[LifecycleSettings], facts: HostFacts, cloud_facts: dict[str, str]
) -> None:
    key = bucket_key(runtime.origin)
    value = msgspec.json.encode(msgspec.structs.replace(facts, **cloud_facts))
    backoff = Backoff(uniform=runtime.uniform)
    await retry(lambda: runtime.bus.put(HOSTS_BUCKET, key, value), BusError, backoff, _log_retry)


def _log_retry(error: Exception) -> None:
    log.debug("the facts of this host are not stored yet: %s", error)


def read_host_facts(origin: str, host_root: str = "") -> HostFacts:
    """Return the machine's own facts; `host_root` is the mount of the host's root, if any."""
    release = read_os_release(Path(host_root or "/"))
    return HostFacts(
        hostname=origin,
        os_family=platform.system().lower(),
        distro_name=release.get("NAME", ""),
        distro_version=release.get("VERSION_ID", ""),
        kernel=platform.release(),
        architecture=platform.machine(),
        virtualization=detect_virtualization(in_container_of_host=bool(host_root)),
        boot_id=BOOT_ID.read_text().strip() if BOOT_ID.exists() else "",
        cpu_count=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
    )


def read_os_release(root: Path) -> dict[str, str]:
    """Return the assignments of os-release(5) under `root`; empty without such a file.

    The second path is tried too, because the first may be a link to an absolute path, which leads
    out of a mounted root.
    """
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        if path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            pairs = (line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
            return {name.strip(): value.strip().strip("\"'") for name, value in pairs}
    return {}
