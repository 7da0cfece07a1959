"""The process of the collector: its settings, its signals, its memory."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest
from broker import wait_until
from kubernetes_api import ApiServer, Exchange, error_answer
from kubernetes_running import (
    RunningCollector,
    published_events,
    revisions,
    wait_for_cursor,
    wait_for_events,
)

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import SettingsError, load_settings

Start = Callable[..., RunningCollector]
StartProcess = Callable[..., Awaitable[Process]]


async def test_without_a_cluster_the_exit_status_is_2_after_one_line(process: StartProcess) -> None:
    running = await process(KUBECONFIG="")
    async with asyncio.timeout(20):
        _, errors = await running.communicate()
    assert running.returncode == 2
    assert b"Traceback" not in errors
    assert errors.decode().splitlines()[-1] == (
        "kubernetes: KUBECONFIG: not set, and neither a pod's service account nor ~/.kube/config "
        "is here; run inside a cluster, or name a kubeconfig file"
    )


async def test_a_cluster_that_cannot_be_identified_is_a_settings_error(
    cluster: ApiServer, process: StartProcess, streams: Bus
) -> None:
    cluster.answer_all = error_answer(403)
    running = await process(KUBERNETES_CLUSTER_ID="")
    async with asyncio.timeout(20):
        _, errors = await running.communicate()
    assert running.returncode == 2
    assert errors.decode().splitlines()[-1] == (
        "kubernetes: KUBERNETES_CLUSTER_ID: not set, and the namespace kube-system may not be "
        "read; set it, or grant `get` on that one namespace"
    )


async def test_a_configured_name_identifies_a_cluster_that_denies_its_uid(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    answer = cluster._answer

    async def forbid(exchange: Exchange) -> None:
        if exchange.path.endswith("kube-system"):
            await error_answer(403)(exchange)
        else:
            cluster.answer_all = None
            await answer(exchange)
            cluster.answer_all = forbid

    cluster.answer_all = forbid
    start_collector()
    cluster.add("one")
    (event,) = await wait_for_events(streams, 1)
    assert event.origin == "prod"


async def test_a_cluster_without_kube_system_yet_is_waited_for(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """The API answers a moment before there is a namespace kube-system."""
    cluster.answer_all = error_answer(404)
    running = start_collector()
    await wait_until(lambda: "no namespace kube-system yet" in running.cluster.detail)
    cluster.answer_all = None
    cluster.add("one")
    await wait_for_events(streams, 1)


@pytest.mark.parametrize("variable", ["KUBERNETES_ENABLED", "KUBERNETES_EVENTS_ENABLED"])
async def test_a_disabled_collector_idles_and_is_ready(
    cluster: ApiServer, streams: Bus, start_collector: Start, variable: str
) -> None:
    running = start_collector(**{variable: "false"}, KUBECONFIG="/nowhere")
    await wait_until(lambda: running.cluster.detail == f"switched off by {variable}")
    assert running.health.report().ready
    await running.stop()
    assert cluster.requests == []


async def test_a_lease_without_a_namespace_is_a_settings_error() -> None:
    with pytest.raises(SettingsError, match="sematext/kubernetes-collector"):
        load_settings(KubernetesSettings, {"KUBERNETES_LEASE": "collector"})


async def test_sigterm_drains_and_the_next_start_resumes(
    cluster: ApiServer, streams: Bus, process: StartProcess
) -> None:
    running = await process()
    cluster.add("one")
    await wait_for_events(streams, 1)
    running.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        _, errors = await running.communicate()
    assert running.returncode == 0, errors.decode()
    assert b"Traceback" not in errors
    await wait_for_cursor(streams, 101)
    cluster.add("two")
    await process()
    assert revisions(await wait_for_events(streams, 2)) == [101, 102]
    assert len(cluster.lists()) == 1


async def test_repeated_sigkill_loses_and_duplicates_nothing(
    cluster: ApiServer, streams: Bus, process: StartProcess
) -> None:
    """At any moment: while listing, publishing, storing the cursor."""
    adding = asyncio.create_task(add_slowly(cluster, 400))
    for published in (1, 40, 120):
        running = await process()
        await wait_for_events(streams, published, 30)
        running.kill()
        await running.communicate()
    await adding
    await process()
    events = await wait_for_events(streams, 400, 30)
    assert sorted(revisions(events)) == list(range(101, 501))
    await asyncio.sleep(0.3)
    assert len(await published_events(streams)) == 400


async def add_slowly(cluster: ApiServer, count: int) -> None:
    for number in range(count):
        cluster.add(f"e{number}")
        await asyncio.sleep(0.005)


def test_the_sdk_is_not_imported_before_it_is_needed_and_its_models_never() -> None:
    code = (
        "import json, sys\n"
        "from sematext_agent.kubernetes_collector import __main__\n"
        "before = 'kubernetes' in sys.modules\n"
        "from sematext_agent.kubernetes_collector.credentials import Credentials\n"
        "from sematext_agent.kubernetes_collector.settings import KubernetesSettings\n"
        "from sematext_agent.shared.settings import SettingsError\n"
        "try:\n"
        "    Credentials(KubernetesSettings(kubeconfig='/nowhere'))\n"
        "except SettingsError:\n"
        "    pass\n"
        "models = [name for name in sys.modules if name.startswith('kubernetes.client.models.')]\n"
        "print(json.dumps([before, len(models)]))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [False, 0]


def peak_mb(pid: int) -> float:
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


async def test_a_large_cluster_does_not_grow_the_process(
    cluster: ApiServer, streams: Bus, process: StartProcess
) -> None:
    """30,000 events listed take what 1,000 take; benchmarks/ goes to a million."""
    peaks = []
    for count in (1_000, 30_000):
        cluster.revision += count
        cluster.objects.clear()
        for number in range(count):
            cluster.add(f"e{count}-{number}", message="x" * 500)
        before = (await streams.manager.stream_info("EVENTS")).state.messages
        running = await process(KUBERNETES_CLUSTER_ID=f"c{count}")
        async with asyncio.timeout(60):
            while (await streams.manager.stream_info("EVENTS")).state.messages < before + count:
                await asyncio.sleep(0.05)
        peaks.append(peak_mb(running.pid))
        running.kill()
        await running.communicate()
    assert max(peaks) <= 80, peaks
    assert peaks[1] - peaks[0] < 8, peaks


def test_the_list_of_faults_names_existing_tests() -> None:
    folder = Path(__file__).parent
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (folder / "faults.md").read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"def {name}\(", (folder / file).read_text())
    ]
    assert missing == []
