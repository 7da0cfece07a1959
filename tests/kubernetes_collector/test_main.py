"""The collector as a process: its settings, its signals, its memory."""

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
from broker import eventually
from kubernetes_api import ApiServer, Exchange, fails
from kubernetes_running import Collecting, revisions, told, until_stored, until_told

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import SettingsError, load_settings

Start = Callable[..., Collecting]
StartProcess = Callable[..., Awaitable[Process]]


async def test_without_a_cluster_it_ends_with_2_and_one_line(process: StartProcess) -> None:
    one = await process(KUBECONFIG="")
    async with asyncio.timeout(20):
        _, errors = await one.communicate()
    assert one.returncode == 2
    assert b"Traceback" not in errors
    assert errors.decode().splitlines()[-1] == (
        "kubernetes: KUBECONFIG: not set, and neither a pod's service account nor ~/.kube/config "
        "is here; run inside a cluster, or name a kubeconfig file"
    )


async def test_without_a_name_and_without_the_right_to_ask_for_one_it_says_so(
    cluster: ApiServer, process: StartProcess, streams: Bus
) -> None:
    cluster.always = fails(403)
    one = await process(KUBERNETES_CLUSTER_ID="")
    async with asyncio.timeout(20):
        _, errors = await one.communicate()
    assert one.returncode == 2
    assert errors.decode().splitlines()[-1] == (
        "kubernetes: KUBERNETES_CLUSTER_ID: not set, and the namespace kube-system may not be "
        "read; set it, or grant `get` on that one namespace"
    )


async def test_a_name_stands_for_a_cluster_that_may_not_be_asked(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    answer = cluster._answer

    async def forbid(exchange: Exchange) -> None:
        if exchange.path.endswith("kube-system"):
            await fails(403)(exchange)
        else:
            cluster.always = None
            await answer(exchange)
            cluster.always = forbid

    cluster.always = forbid
    collecting()
    cluster.add("one")
    (event,) = await until_told(streams, 1)
    assert event.origin == "prod"


async def test_a_cluster_that_is_still_being_made_is_waited_for(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """The API answers a moment before there is a namespace kube-system."""
    cluster.always = fails(404)
    running = collecting()
    await eventually(lambda: "no namespace kube-system yet" in running.cluster.detail)
    cluster.always = None
    cluster.add("one")
    await until_told(streams, 1)


@pytest.mark.parametrize("variable", ["KUBERNETES_ENABLED", "KUBERNETES_EVENTS_ENABLED"])
async def test_switched_off_it_idles_and_is_ready(
    cluster: ApiServer, streams: Bus, collecting: Start, variable: str
) -> None:
    running = collecting(**{variable: "false"}, KUBECONFIG="/nowhere")
    await eventually(lambda: running.cluster.detail == f"switched off by {variable}")
    assert running.health.report().ready
    await running.stop()
    assert cluster.requests == []


async def test_a_lease_needs_a_namespace() -> None:
    with pytest.raises(SettingsError, match="sematext/kubernetes-collector"):
        load_settings(KubernetesSettings, {"KUBERNETES_LEASE": "collector"})


async def test_sigterm_ends_it_in_order_and_the_next_start_goes_on(
    cluster: ApiServer, streams: Bus, process: StartProcess
) -> None:
    one = await process()
    cluster.add("one")
    await until_told(streams, 1)
    one.send_signal(signal.SIGTERM)
    async with asyncio.timeout(10):
        _, errors = await one.communicate()
    assert one.returncode == 0, errors.decode()
    assert b"Traceback" not in errors
    await until_stored(streams, 101)
    cluster.add("two")
    await process()
    assert revisions(await until_told(streams, 2)) == [101, 102]
    assert len(cluster.lists()) == 1


async def test_sigkill_again_and_again_loses_and_doubles_nothing(
    cluster: ApiServer, streams: Bus, process: StartProcess
) -> None:
    """At whatever moment: while listing, publishing, storing the cursor."""
    adding = asyncio.create_task(add_slowly(cluster, 600))
    for seconds in (1.0, 1.3, 1.1):
        one = await process()
        await asyncio.sleep(seconds)
        one.kill()
        await one.communicate()
    await adding
    await process()
    events = await until_told(streams, 600, 30)
    assert sorted(revisions(events)) == list(range(101, 701))
    await asyncio.sleep(0.3)
    assert len(await told(streams)) == 600


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
        one = await process(KUBERNETES_CLUSTER_ID=f"c{count}")
        async with asyncio.timeout(60):
            while (await streams.manager.stream_info("EVENTS")).state.messages < before + count:
                await asyncio.sleep(0.05)
        peaks.append(peak_mb(one.pid))
        one.kill()
        await one.communicate()
    assert max(peaks) <= 80, peaks
    assert peaks[1] - peaks[0] < 8, peaks


def test_the_table_of_faults_names_tests_that_there_are() -> None:
    here = Path(__file__).parent
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", (here / "faults.md").read_text())
    assert len(named) > 20
    missing = [
        f"{file}::{name}"
        for file, name in named
        if not re.search(rf"def {name}\(", (here / file).read_text())
    ]
    assert missing == []
