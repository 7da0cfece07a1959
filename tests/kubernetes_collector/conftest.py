"""The collector in this process, between a scripted API server and a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path

import pytest
from broker import NatsServer
from control_plane import ADMIN, ControlPlane
from kubernetes_api import ApiServer, api_server, kubeconfig
from kubernetes_running import RunningCollector

from sematext_agent.kubernetes_collector import events_resource, recovery, retry_policy
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.subjects import CURSORS_BUCKET


@pytest.fixture
async def cluster() -> AsyncIterator[ApiServer]:
    async with api_server() as server:
        yield server


@pytest.fixture
async def streams(connection: Bus) -> Bus:
    """Return the bus, with the stream and the bucket that the forwarder creates."""
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    return connection


@pytest.fixture
async def start_collector(
    streams: Bus, cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., RunningCollector]]:
    """Start collectors of `cluster` with short pauses; stop those that a test left running."""
    monkeypatch.setattr(recovery, "PACE_SECONDS", 0.05)
    monkeypatch.setattr(events_resource, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(events_resource, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(retry_policy, "DENIED_SECONDS", 0.1)
    started: list[RunningCollector] = []
    config = kubeconfig(tmp_path / "kubeconfig", cluster.url)

    def start(clock: Clock = SYSTEM_CLOCK, **environ: str) -> RunningCollector:
        environ = {"KUBECONFIG": str(config), "KUBERNETES_CLUSTER_ID": "prod"} | environ
        started.append(RunningCollector(streams, environ, clock))
        return started[-1]

    yield start
    for running in started:
        if not running.task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await running.stop()


@pytest.fixture
async def process(
    cluster: ApiServer, nats_server: NatsServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """Start `kubernetes-collector` as a supervisor would, or after `prelude`, a line of Python."""
    started: list[Process] = []
    config = kubeconfig(tmp_path / "kubeconfig", cluster.url)

    async def start(prelude: str = "", **environ: str) -> Process:
        code = f"{prelude}\nfrom sematext_agent.kubernetes_collector.__main__ import main\nmain()"
        inherited = {name: os.environ.get(name, "") for name in ("PATH", "PYTHONPATH")}
        inherited["HOME"] = str(tmp_path / "nobody")
        defaults = {"NATS_URL": nats_server.url, "KUBERNETES_CLUSTER_ID": "prod"}
        environ = inherited | defaults | {"KUBECONFIG": str(config)} | environ
        started.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stderr=PIPE, env=environ
            )
        )
        return started[-1]

    yield start
    for running in started:
        if running.returncode is None:
            running.kill()
            await running.communicate()


@pytest.fixture
def plane(tmp_path: Path) -> Iterator[ControlPlane]:
    folder = tmp_path / "plane"
    folder.mkdir()
    control_plane = ControlPlane(folder)
    control_plane.add_user("collector-token", "collector")
    control_plane.add_user("next-token", "collector")
    control_plane.start()
    yield control_plane
    control_plane.stop()


@pytest.fixture
async def start_on_plane(
    plane: ControlPlane, streams: Bus, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., RunningCollector]]:
    """Start collectors of the real cluster; stop those that a test left running."""
    monkeypatch.setattr(retry_policy, "DENIED_SECONDS", 0.2)
    started: list[RunningCollector] = []

    def begin(**environ: str) -> RunningCollector:
        user = {"token": environ.pop("TOKEN", ADMIN)}
        if "TOKEN_FILE" in environ:
            user = {"tokenFile": environ.pop("TOKEN_FILE")}
        config = kubeconfig(
            tmp_path / "kubeconfig", plane.url, certificate_authority=str(plane.certificate), **user
        )
        started.append(RunningCollector(streams, {"KUBECONFIG": str(config)} | environ))
        return started[-1]

    yield begin
    for running in started:
        if not running.task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await running.stop()
