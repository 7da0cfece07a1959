"""The chart's broker on a small disk, restarted by its own liveness probe, as a kubelet does it."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import subprocess
from asyncio.subprocess import DEVNULL
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from broker import NATS_SERVER, free_port, wait_for_port, wait_until
from publishing import connect, create_streams, is_refused, publish
from small_disk import SmallDisk

CHART = Path(__file__).parents[2] / "deploy/helm"
HELM = shutil.which(
    "helm", path=f"{CHART.parents[1]}/.venv/chart-tools:{os.environ.get('PATH', '')}"
)
pytestmark = [
    pytest.mark.skipif(HELM is None, reason="no helm: run tests/chart_tools.sh .venv/chart-tools"),
    pytest.mark.skipif(shutil.which("wget") is None, reason="no wget on this machine"),
]
RECOVERY_SECONDS_MAX = 30
START_SECONDS = 10
"""Of the container and of the broker in it."""
HASTE = 10
"""The kubelet of this test probes so many times as often."""
PASSWORD = "a-password"


class Kubelet:
    """The container of the broker, and the probe that decides on its restart."""

    def __init__(self, disk: SmallDisk) -> None:
        """Render the chart, with ports and a path of this machine."""
        rendered = subprocess.run([str(HELM), "template", "agent", CHART], capture_output=True)
        self._places = {"4222": str(free_port()), "8222": str(free_port()), "/data": str(disk.path)}
        self.port = int(self._places["4222"])
        self._configuration = disk.path.with_name("nats.conf")
        self.probe: dict[str, Any] = {}
        for manifest in yaml.safe_load_all(rendered.stdout):
            name = manifest["metadata"]["name"] if manifest else ""
            if name == "agent-nats" and manifest["kind"] == "ConfigMap":
                self._configuration.write_text(self._relocate(manifest["data"]["nats.conf"]))
            if name == "agent-nats" and manifest["kind"] == "StatefulSet":
                (container,) = manifest["spec"]["template"]["spec"]["containers"]
                self.probe = container["livenessProbe"]
        self.restarts = 0
        self.probes = 0

    def _relocate(self, text: str) -> str:
        return re.sub("4222|8222|/data", lambda found: self._places[found[0]], text)

    async def run(self) -> None:
        """Run the container for ever."""
        while True:
            process = await asyncio.create_subprocess_exec(
                *(NATS_SERVER, "-c", self._configuration),
                env={"NATS_PASSWORD": PASSWORD},
                stderr=DEVNULL,
            )
            try:
                await asyncio.to_thread(wait_for_port, self.port)
                await self._until_probe_fails()
            finally:
                process.terminate()
                await process.wait()
            self.restarts += 1

    async def _until_probe_fails(self) -> None:
        failures = 0
        while failures < self.probe["failureThreshold"]:
            await asyncio.sleep(self.probe["periodSeconds"] / HASTE)
            self.probes += 1
            failures = 0 if await self._is_alive() else failures + 1

    async def _is_alive(self) -> bool:
        command = map(self._relocate, self.probe["exec"]["command"])
        process = await asyncio.create_subprocess_exec(*command)
        async with asyncio.timeout(self.probe["timeoutSeconds"]):
            return await process.wait() == 0


@pytest.fixture
async def kubelet(disk: SmallDisk) -> AsyncIterator[Kubelet]:
    kubelet = Kubelet(disk)
    running = asyncio.create_task(kubelet.run())
    await asyncio.to_thread(wait_for_port, kubelet.port)
    yield kubelet
    running.cancel()
    await asyncio.wait([running])


async def test_the_liveness_probe_restarts_a_frozen_broker_once_its_disk_has_room(
    kubelet: Kubelet, disk: SmallDisk
) -> None:
    url = f"nats://127.0.0.1:{kubelet.port}"
    async with connect(url, "agent", PASSWORD) as connection:
        await create_streams(connection)
        await publish(connection, "before")
        disk.fill()
        assert await is_refused(connection, "meanwhile")
        # It would be of no use yet, and a kubelet waits longer after each restart.
        probes = kubelet.probes + kubelet.probe["failureThreshold"] + 1
        await wait_until(lambda: kubelet.probes > probes)
        assert kubelet.restarts == 0
        disk.make_room()
        async with asyncio.timeout(RECOVERY_SECONDS_MAX):
            await publish(connection, "meanwhile")
        assert kubelet.restarts == 1
    probe = kubelet.probe
    seconds = (probe["periodSeconds"] + 1) * probe["failureThreshold"]
    assert seconds + START_SECONDS < RECOVERY_SECONDS_MAX
