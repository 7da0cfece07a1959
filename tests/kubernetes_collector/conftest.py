"""The collector in this process, between a scripted API server and a real nats-server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest
from broker import NatsServer
from kubernetes_api import ApiServer, api_server, kubeconfig
from kubernetes_running import Collecting

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
    """The bus, with what the forwarder makes."""
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    return connection


@pytest.fixture
async def collecting(
    streams: Bus, cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncIterator[Callable[..., Collecting]]:
    """Starts collectors of `cluster`, in a hurry; ends those that a test left running."""
    monkeypatch.setattr(recovery, "PACE_SECONDS", 0.05)
    monkeypatch.setattr(events_resource, "LATE_SECONDS", 0.5)
    monkeypatch.setattr(events_resource, "GRACE_SECONDS", 0.1)
    monkeypatch.setattr(retry_policy, "DENIED_SECONDS", 0.1)
    started: list[Collecting] = []
    config = kubeconfig(tmp_path / "kubeconfig", cluster.url)

    def start(clock: Clock = SYSTEM_CLOCK, **environ: str) -> Collecting:
        environ = {"KUBECONFIG": str(config), "KUBERNETES_CLUSTER_ID": "prod"} | environ
        started.append(Collecting(streams, environ, clock))
        return started[-1]

    yield start
    for one in started:
        if not one.task.done():
            with contextlib.suppress(asyncio.CancelledError):
                await one.stop()


@pytest.fixture
async def process(
    cluster: ApiServer, nats_server: NatsServer, tmp_path: Path
) -> AsyncIterator[Callable[..., Awaitable[Process]]]:
    """Starts `kubernetes-collector` as a supervisor would, or after `prelude`, a line of Python."""
    started: list[Process] = []
    config = kubeconfig(tmp_path / "kubeconfig", cluster.url)

    async def start(prelude: str = "", **environ: str) -> Process:
        code = f"{prelude}\nfrom sematext_agent.kubernetes_collector.__main__ import main\nmain()"
        bare = {name: os.environ.get(name, "") for name in ("PATH", "PYTHONPATH")}
        bare["HOME"] = str(tmp_path / "nobody")
        known = {"NATS_URL": nats_server.url, "KUBERNETES_CLUSTER_ID": "prod"}
        environ = bare | known | {"KUBECONFIG": str(config)} | environ
        started.append(
            await asyncio.create_subprocess_exec(
                sys.executable, "-c", code, stderr=PIPE, env=environ
            )
        )
        return started[-1]

    yield start
    for one in started:
        if one.returncode is None:
            one.kill()
            await one.communicate()
