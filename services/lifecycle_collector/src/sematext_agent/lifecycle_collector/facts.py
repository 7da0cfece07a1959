"""The facts of this host, kept in the bucket `hosts` for whoever reads its events."""

from __future__ import annotations

import asyncio
import logging
import platform
from pathlib import Path

import msgspec
import psutil

from sematext_agent.lifecycle_collector import cloud
from sematext_agent.lifecycle_collector.settings import LifecycleSettings
from sematext_agent.lifecycle_collector.virtualization import virtualization
from sematext_agent.lifecycle_collector.watch import BOOT_ID
from sematext_agent.shared.bus import BusError
from sematext_agent.shared.events import HostFacts
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import HOSTS_BUCKET, bucket_key

log = logging.getLogger(__name__)


async def keep(runtime: Runtime[LifecycleSettings]) -> None:
    """Stores the facts at start and again at every interval; never returns.

    What the machine itself knows is stored at once. The cloud is asked afterwards, because where
    there is none its address may swallow the question.
    """
    settings = runtime.settings
    in_cloud: dict[str, str] = {}
    while True:
        facts = of_this_host(runtime.origin, settings.host_root)
        await _store(runtime, facts, in_cloud)
        if settings.cloud_metadata_enabled:
            found = await cloud.ask(settings.cloud_metadata_url)
            if found and found != in_cloud:
                in_cloud = found
                log.info("running in the cloud %s", in_cloud["cloud_provider"])
                await _store(runtime, facts, in_cloud)
        await asyncio.sleep(settings.host_facts_interval)


async def _store(
    runtime: Runtime[LifecycleSettings], facts: HostFacts, in_cloud: dict[str, str]
) -> None:
    value = msgspec.json.encode(msgspec.structs.replace(facts, **in_cloud))
    backoff = Backoff()
    while True:
        try:
            await runtime.bus.put(HOSTS_BUCKET, bucket_key(runtime.origin), value)
        except BusError as error:
            log.debug("the facts of this host are not stored yet: %s", error)
            await asyncio.sleep(backoff.draw_delay_seconds())
        else:
            return


def of_this_host(origin: str, host_root: str = "") -> HostFacts:
    """What the machine itself knows; `host_root` is where its file system is mounted, if it is."""
    release = os_release(Path(host_root or "/"))
    return HostFacts(
        hostname=origin,
        os_family=platform.system().lower(),
        distro_name=release.get("NAME", ""),
        distro_version=release.get("VERSION_ID", ""),
        kernel=platform.release(),
        architecture=platform.machine(),
        virtualization=virtualization(in_container_of_host=bool(host_root)),
        boot_id=BOOT_ID.read_text().strip() if BOOT_ID.exists() else "",
        cpu_count=psutil.cpu_count() or 0,
        memory_bytes=psutil.virtual_memory().total,
    )


def os_release(root: Path) -> dict[str, str]:
    """The assignments of os-release(5) under `root`; empty where there is no such file.

    The second place is read too, because the first may be a link to an absolute path, which leads
    out of a root that is only mounted.
    """
    for path in (root / "etc/os-release", root / "usr/lib/os-release"):
        if path.is_file():
            lines = path.read_text(errors="replace").splitlines()
            pairs = (line.split("=", 1) for line in lines if "=" in line and line[0] != "#")
            return {name.strip(): value.strip().strip("\"'") for name, value in pairs}
    return {}
