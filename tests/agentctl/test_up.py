"""The whole agent under one command: its output, its restarts, and its end."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import pytest_asyncio
from broker import wait_until
from commands import Command, Start, start_commands

# One loop for the module, because several tests share a running agent.
pytestmark = pytest.mark.asyncio(loop_scope="module")
STUBS = Path(__file__).with_name("stubs")


class StubAgent:
    """`agentctl up` with stubs, on one state directory."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._start = start
        self.state = directory / "a state of ü"  # as its user may name it
        self.deliveries = directory / "deliveries"

    async def up(self, **environ: str) -> Command:
        return await self._start(
            STUBS / "stub_agentctl.py",
            self.state,
            **{
                "PYTHONPATH": str(STUBS),
                "DELIVERED": str(self.deliveries),
                "CLOUD_METADATA_ENABLED": "false",
                "HEARTBEAT_INTERVAL": "100ms",
                "INFRA_TOKEN": "",
            }
            | environ,
        )

    @property
    def delivered(self) -> list[str]:
        """The last two tokens of the subjects of delivered events, in order."""
        if not self.deliveries.exists():
            return []
        lines = self.deliveries.read_text().split()
        return [".".join(line.split(".")[-2:]) for line in lines]

    @property
    def url(self) -> str:
        return (self.state / "nats-url").read_text().strip()

    async def processes(self, up: Command) -> dict[str, int]:
        """Return the process id of each service, from `agentctl status`."""
        status = await self._start("-m", "sematext_agent.agentctl", "status", "--state", self.state)
        await status.end()
        assert up.process.returncode is None
        matches = (re.fullmatch(r"\s+(\w+): process (\d+)", line) for line in status.out)
        return {match[1]: int(match[2]) for match in matches if match}


@pytest_asyncio.fixture(loop_scope="module")
async def agent(tmp_path: Path) -> AsyncIterator[StubAgent]:
    async with start_commands() as start:
        yield StubAgent(start, tmp_path)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def running_agent(
    tmp_path_factory: pytest.TempPathFactory,
) -> AsyncIterator[tuple[StubAgent, Command]]:
    """Start one agent for tests that only look at it."""
    async with start_commands() as start:
        agent = StubAgent(start, tmp_path_factory.mktemp("agent"))
        up = await agent.up()
        await up.shows("agent started")
        yield agent, up


def is_running(pid: int) -> bool:
    """Return whether a process runs; a zombie does not."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


def environ_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def test_every_event_is_shown_and_the_services_stop_in_order(agent: StubAgent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    await up.shows("container stub-")
    assert await up.end(signal.SIGINT) == 0
    assert sorted(agent.delivered[:2]) == ["agent.started", "container.start"]
    assert agent.delivered[2:] == ["agent.stopped"]
    ends = [line for line in up.out if line.endswith("| stopped")]
    assert [line.split()[1] for line in ends] == ["lifecycle", "docker", "forwarder"]
    assert any("agent stopped" in line for line in up.out)
    assert up.err == []


async def test_a_stop_waits_for_the_delivery_of_the_last_events(agent: StubAgent) -> None:
    up = await agent.up(DELIVER_SECONDS="0.5")
    await up.shows("agent started")
    await up.shows("container stub-")  # a collector that still starts would publish its event last
    assert await up.end(signal.SIGINT) == 0
    assert agent.delivered[-1] == "agent.stopped"


async def test_the_start_shows_services_and_state_and_that_nothing_leaves_the_machine(
    running_agent: tuple[StubAgent, Command],
) -> None:
    agent, up = running_agent
    assert "  services  lifecycle, docker, forwarder" in up.out
    assert f"  state     {agent.state}" in up.out
    assert any("dry run" in line for line in up.out)


async def test_sigterm_stops_the_agent_and_the_token_is_given_to_the_forwarder_alone(
    agent: StubAgent,
) -> None:
    up = await agent.up(INFRA_TOKEN="not-to-be-seen")
    await up.shows("agent started")
    processes = await agent.processes(up)
    holders = [name for name, pid in processes.items() if "not-to-be-seen" in environ_of(pid)]
    assert holders == ["forwarder"]
    assert not any("dry run" in line or "not-to-be-seen" in line for line in up.out)
    assert await up.end(signal.SIGTERM) == 0


async def test_a_service_that_crashes_starts_again_while_the_others_go_on(
    agent: StubAgent,
) -> None:
    up = await agent.up()
    await up.shows("container stub-")
    before = await agent.processes(up)
    os.kill(before["docker"], signal.SIGKILL)
    await up.shows("ended with SIGKILL, starts again")
    await up.shows("container stub-", times=2)
    after = await agent.processes(up)
    assert after.pop("docker") != before.pop("docker")
    assert after == before


async def test_a_restart_of_the_lifecycle_collector_is_no_start_of_the_agent(
    agent: StubAgent,
) -> None:
    up = await agent.up()
    await up.shows("agent started")
    os.kill((await agent.processes(up))["lifecycle"], signal.SIGKILL)
    await up.shows("lifecycle  | bus: connected", times=2)
    assert await up.end(signal.SIGINT) == 0
    lifecycle = [subject for subject in agent.delivered if subject.startswith("agent.")]
    assert lifecycle == ["agent.started", "agent.stopped"]


async def test_a_broker_that_crashes_comes_back_for_every_service(agent: StubAgent) -> None:
    up = await agent.up()
    await up.shows("container stub-")
    processes = await agent.processes(up)
    os.kill(processes["nats"], signal.SIGKILL)
    await up.shows("nats       | ended with SIGKILL")
    await up.shows("bus: connected", times=6)
    os.kill(processes["docker"], signal.SIGKILL)
    await up.shows("container stub-", times=2)
    assert await up.end(signal.SIGINT) == 0
    assert agent.delivered.count("container.start") == 2


async def test_a_killed_agent_leaves_no_process_and_its_next_start_reports_the_end(
    agent: StubAgent,
) -> None:
    up = await agent.up()
    await up.shows("agent started")
    processes = await agent.processes(up)
    url = agent.url
    await up.end(signal.SIGKILL)
    await wait_until(lambda: not any(map(is_running, processes.values())))
    up = await agent.up()
    await up.shows("agent stopped without a word")
    await up.shows("agent started")
    assert agent.url == url
    assert await up.end(signal.SIGINT) == 0


async def test_the_ctrl_c_of_a_terminal_reaches_no_service(
    running_agent: tuple[StubAgent, Command],
) -> None:
    """The terminal signals a whole process group; every service has a session of its own."""
    agent, up = running_agent
    processes = await agent.processes(up)
    assert all(os.getsid(pid) == pid for pid in processes.values())


async def test_the_agent_stops_with_its_terminal_unless_it_runs_under_nohup(
    agent: StubAgent,
) -> None:
    up = await agent.up()
    await up.shows("agent started")
    assert await up.end(signal.SIGHUP) == 0
    up = await agent.up(NOHUP="1")
    await up.shows("agent started")
    up.process.send_signal(signal.SIGHUP)
    assert (await agent.processes(up)).keys() >= {"lifecycle", "docker", "forwarder", "nats"}
    assert await up.end(signal.SIGINT) == 0


async def test_a_second_ctrl_c_ends_the_agent_at_once(agent: StubAgent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    processes = await agent.processes(up)
    os.kill(processes["lifecycle"], signal.SIGSTOP)  # it will not stop when it is asked to
    up.process.send_signal(signal.SIGINT)
    await up.shows("stopping (once more to stop at once)")
    assert await up.end(signal.SIGINT) == 1
    await wait_until(lambda: not any(map(is_running, processes.values())))


async def test_a_second_agent_on_the_state_directory_ends_at_once(
    running_agent: tuple[StubAgent, Command],
) -> None:
    agent, up = running_agent
    second = await agent.up()
    assert await second.end() == 1
    (line,) = second.err
    assert "is running already" in line
    assert f"process {up.process.pid}" in line
    assert second.out == []


async def test_settings_that_a_service_cannot_use_stop_the_agent_with_2(agent: StubAgent) -> None:
    up = await agent.up(HEARTBEAT_INTERVAL="0s")
    assert await up.end() == 2
    assert up.out[-1].startswith("agentctl: lifecycle: HEARTBEAT_INTERVAL=0: ")
    assert not any("starts again" in line for line in up.out)


async def test_the_broker_listens_on_loopback_and_requires_the_password(
    running_agent: tuple[StubAgent, Command],
) -> None:
    agent, up = running_agent
    url = urlsplit(agent.url)
    assert url.hostname == "127.0.0.1"
    assert (agent.state / "nats-url").stat().st_mode & 0o077 == 0
    assert (agent.state / "nats.conf").stat().st_mode & 0o077 == 0
    assert agent.state.stat().st_mode & 0o077 == 0
    assert url.port is not None
    with socket.create_connection(("127.0.0.1", url.port), timeout=5) as wire:
        wire.recv(65536)
        wire.sendall(b"CONNECT {}\r\nPING\r\n")
        assert b"Authorization Violation" in wire.recv(65536)
    assert url.password is not None
    assert not any(url.password in line for line in up.out)
    inodes = socket_inodes(up.process.pid, *(await agent.processes(up)).values())
    addresses = {address for inode, address in listening_sockets() if inode in inodes}
    assert addresses == {"0100007F"}  # 127.0.0.1 in /proc/net/tcp


def socket_inodes(*pids: int) -> set[str]:
    """Return the inodes of the sockets of some processes."""
    links = (
        os.readlink(link)
        for pid in pids
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    )
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def listening_sockets() -> list[tuple[str, str]]:
    """Return the inode and the address of every listening TCP socket."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return [(row[9], row[1].partition(":")[0]) for row in rows if row[3] == "0A"]
