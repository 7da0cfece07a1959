"""The cost of the whole idle agent, its broker included.

    python benchmarks/whole_agent.py [SECONDS]

`agentctl up` runs with all services on a state of its own, against a receiver on this machine. Its
engine and its cluster are scripted ones in which nothing happens; packages and the kernel's log are
those of this machine, and their events are counted. Measured are the seconds from the start to the
first event at the receiver, three times; then, after a minute for the first scan of the packages,
CPU and memory of each process for SECONDS (60). The goals: 3 s, 1 % of a core, 200 MB of
proportional memory without a cluster.
"""

from __future__ import annotations

import asyncio
import os
import sys
import tempfile
import time
from asyncio.subprocess import DEVNULL, Process
from pathlib import Path

# In place of this folder, whose modules would hide packages of the same name.
sys.path[0] = str(Path(__file__).parents[1] / "tests")

from broker import wait_until
from fake_engine import FakeEngine
from kubernetes_api import api_server, kubeconfig
from measuring import cpu_seconds, family, proportional_mb, record
from receiver import TOKEN, Receiver

SECONDS = float(sys.argv[1]) if len(sys.argv) > 1 else 60.0
SETTLING_SECONDS = 60.0


async def start(folder: Path, receiver: Receiver, cluster: str) -> tuple[Process, float]:
    """Start the agent; return it and the seconds until its first event was delivered."""
    environ = os.environ | {
        "INFRA_TOKEN": TOKEN,
        "DOCKER_TRANSPORT": f"unix://{folder.parent}/docker.sock",
        "EVENTS_RECEIVER_URL": receiver.url,
        "KUBECONFIG": str(kubeconfig(folder / "kubeconfig", cluster)),
    }
    began, before = time.monotonic(), len(receiver.documents)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sematext_agent.agentctl",
        "up",
        "--state",
        str(folder / "state"),
        env=environ,
        stdout=DEVNULL,
    )
    await wait_until(lambda: len(receiver.documents) > before, 60)
    return process, time.monotonic() - began


async def stop(process: Process) -> None:
    process.terminate()
    await process.wait()


def name_of(process: int) -> str:
    """Return `forwarder` of `python -m sematext_agent.forwarder`, `nats-server` of its path."""
    words = Path(f"/proc/{process}/cmdline").read_text().split("\0")
    name = words[words.index("-m") + 1] if "-m" in words else Path(words[0]).name
    return name.removeprefix("sematext_agent.")


async def idle(agent: int) -> None:
    """Measure CPU and memory of each process, and together."""
    processes = {process: name_of(process) for process in family(agent)}
    before = {process: cpu_seconds(process) for process in processes}
    await asyncio.sleep(SECONDS)
    print(f"\n{'idle':22} {'% of a core':>12} {'PSS MB':>8}")
    share_all = memory_all = cluster_mb = 0.0
    for process, name in processes.items():
        share = (cpu_seconds(process) - before[process]) / SECONDS * 100
        memory = proportional_mb(process)
        share_all, memory_all = share_all + share, memory_all + memory
        cluster_mb += memory if name == "kubernetes_collector" else 0
        print(f"{name:22} {share:12.2f} {memory:8.1f}")
    print(f"{'together':22} {share_all:12.2f} {memory_all:8.1f}", flush=True)
    record("whole agent", "idle CPU", share_all, "% of a core")
    record("whole agent", "idle memory (PSS)", memory_all - cluster_mb, "MB")
    record("whole agent", "the same with a cluster", memory_all, "MB")


async def main() -> None:
    async with Receiver() as receiver, api_server() as cluster:
        with tempfile.TemporaryDirectory() as name:
            engine, times = FakeEngine(), []
            await engine.listen(Path(name, "docker.sock"))
            for number in range(3):
                folder = Path(name, str(number))
                folder.mkdir()
                agent, seconds = await start(folder, receiver, cluster.url)
                times.append(seconds)
                if number < 2:
                    await stop(agent)
            print("start to first event delivered, s:", *(f"{seconds:.2f}" for seconds in times))
            record("whole agent", "start to first event delivered", min(times), "s")
            await asyncio.sleep(SETTLING_SECONDS)
            before = len(receiver.documents)
            await idle(agent.pid)
            print(f"{len(receiver.documents) - before} events were delivered meanwhile")
            await stop(agent)
            engine.close()


if __name__ == "__main__":
    asyncio.run(main())
