"""The whole agent under one command: what is shown, what is restarted, and how it ends."""

from __future__ import annotations

import os
import re
import signal
import socket
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from broker import eventually

STUBS = Path(__file__).with_name("stubs")
Start = Callable[..., Awaitable[Any]]


class Agent:
    """`agentctl up` with stubs, on one state directory."""

    def __init__(self, start: Start, directory: Path) -> None:
        self._start = start
        self.state = directory / "a state of ü"  # as its user may name it
        self.shipped_file = directory / "shipped"

    async def up(self, **environ: str) -> Any:
        return await self._start(
            STUBS / "stub_agent.py",
            self.state,
            **{
                "PYTHONPATH": str(STUBS),
                "SHIPPED": str(self.shipped_file),
                "CLOUD_METADATA_ENABLED": "false",
                "HEARTBEAT_INTERVAL": "100ms",
            }
            | environ,
        )

    @property
    def shipped(self) -> list[str]:
        """The last two tokens of the subjects of what was shipped, in order."""
        if not self.shipped_file.exists():
            return []
        lines = self.shipped_file.read_text().split()
        return [".".join(line.split(".")[-2:]) for line in lines]

    @property
    def url(self) -> str:
        return (self.state / "nats-url").read_text().strip()

    async def processes(self, up: Any) -> dict[str, int]:
        """By name of a part: the id of its process, as `agentctl status` shows it."""
        status = await self._start("-m", "sematext_agent.agentctl", "status", "--state", self.state)
        await status.end()
        assert up.process.returncode is None
        pattern = r"\s+(\w+): process (\d+)"
        found = (re.fullmatch(pattern, line) for line in status.out)
        return {match[1]: int(match[2]) for match in found if match}


@pytest.fixture
def agent(start: Start, tmp_path: Path) -> Agent:
    return Agent(start, tmp_path)


def is_running(pid: int) -> bool:
    """Whether a process still runs; one that only waits for its parent does not."""
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def environment_of(pid: int) -> str:
    return Path(f"/proc/{pid}/environ").read_text()


async def test_it_shows_every_event_and_stops_in_order(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    await up.shows("container stub-")
    assert await up.end(signal.SIGINT) == 0
    assert sorted(agent.shipped[:2]) == ["agent.started", "container.start"]
    assert agent.shipped[2:] == ["agent.stopped"]
    ends = [line for line in up.out if line.endswith("| stopped")]
    assert [line.split()[1] for line in ends] == ["lifecycle", "docker", "forwarder"]
    assert any("agent stopped" in line for line in up.out)
    assert up.err == []


async def test_a_stop_waits_for_what_was_told_last_to_be_shipped(agent: Agent) -> None:
    up = await agent.up(SHIP_SECONDS="0.5")
    await up.shows("agent started")
    await up.shows("container stub-")  # a part that still starts would tell its event last
    assert await up.end(signal.SIGINT) == 0
    assert agent.shipped[-1] == "agent.stopped"


async def test_it_says_what_runs_and_that_nothing_leaves_the_machine(agent: Agent) -> None:
    up = await agent.up(INFRA_TOKEN="")
    await up.shows("agent started")
    assert "  parts   lifecycle, docker, forwarder" in up.out
    assert f"  state   {agent.state}" in up.out
    assert any("dry run" in line for line in up.out)
    up.process.send_signal(signal.SIGTERM)
    assert await up.end() == 0


async def test_the_token_is_given_to_the_forwarder_alone(agent: Agent) -> None:
    up = await agent.up(INFRA_TOKEN="not-to-be-seen")
    await up.shows("agent started")
    processes = await agent.processes(up)
    knowing = [name for name, pid in processes.items() if "not-to-be-seen" in environment_of(pid)]
    assert knowing == ["forwarder"]
    assert not any("dry run" in line or "not-to-be-seen" in line for line in up.out)


async def test_a_part_that_crashes_starts_again_while_the_others_go_on(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("container stub-")
    before = await agent.processes(up)
    os.kill(before["docker"], signal.SIGKILL)
    await up.shows("ended with SIGKILL, starts again")
    await up.shows("container stub-", times=2)
    after = await agent.processes(up)
    assert after.pop("docker") != before.pop("docker")
    assert after == before


async def test_a_restart_of_the_lifecycle_collector_is_no_start_of_the_agent(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    os.kill((await agent.processes(up))["lifecycle"], signal.SIGKILL)
    await up.shows("lifecycle  | bus: connected", times=2)
    assert await up.end(signal.SIGINT) == 0
    told = [subject for subject in agent.shipped if subject.startswith("agent.")]
    assert told == ["agent.started", "agent.stopped"]


async def test_a_broker_that_crashes_comes_back_for_everybody(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("container stub-")
    processes = await agent.processes(up)
    os.kill(processes["nats"], signal.SIGKILL)
    await up.shows("nats       | ended with SIGKILL")
    await up.shows("bus: connected", times=6)
    os.kill(processes["docker"], signal.SIGKILL)
    await up.shows("container stub-", times=2)
    assert await up.end(signal.SIGINT) == 0
    assert agent.shipped.count("container.start") == 2


async def test_when_it_is_killed_nothing_is_left_and_the_next_start_tells_it(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    processes = await agent.processes(up)
    url = agent.url
    await up.end(signal.SIGKILL)
    await eventually(lambda: not any(map(is_running, processes.values())))
    up = await agent.up()
    await up.shows("agent stopped without a word")
    await up.shows("agent started")
    assert agent.url == url
    assert await up.end(signal.SIGINT) == 0


async def test_the_terminals_ctrl_c_reaches_no_part(agent: Agent) -> None:
    """The terminal signals a whole process group; every part has a session of its own."""
    up = await agent.up()
    await up.shows("agent started")
    processes = await agent.processes(up)
    assert all(os.getsid(pid) == pid for pid in processes.values())


async def test_it_stops_with_its_terminal_unless_nohup_was_asked_for(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    assert await up.end(signal.SIGHUP) == 0
    up = await agent.up(NOHUP="1")
    await up.shows("agent started")
    up.process.send_signal(signal.SIGHUP)
    assert (await agent.processes(up)).keys() >= {"lifecycle", "docker", "forwarder", "nats"}
    assert await up.end(signal.SIGINT) == 0


async def test_a_second_ctrl_c_ends_it_at_once(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    processes = await agent.processes(up)
    os.kill(processes["lifecycle"], signal.SIGSTOP)  # it will not stop when it is asked to
    up.process.send_signal(signal.SIGINT)
    await up.shows("stopping (once more to stop at once)")
    assert await up.end(signal.SIGINT) == 1
    await eventually(lambda: not any(map(is_running, processes.values())))


async def test_one_agent_a_state_directory(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
    second = await agent.up()
    assert await second.end() == 1
    (line,) = second.err
    assert "is running already" in line
    assert f"process {up.process.pid}" in line
    assert second.out == []


async def test_settings_that_a_part_cannot_use_stop_everything_with_2(agent: Agent) -> None:
    up = await agent.up(HEARTBEAT_INTERVAL="0s")
    assert await up.end() == 2
    assert up.out[-1].startswith("agentctl: lifecycle: HEARTBEAT_INTERVAL=0: ")
    assert not any("starts again" in line for line in up.out)


async def test_the_broker_listens_on_loopback_and_wants_the_password(agent: Agent) -> None:
    up = await agent.up()
    await up.shows("agent started")
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
    inodes = socket_inodes(up, await agent.processes(up))
    addresses = {address for inode, address in listening() if inode in inodes}
    assert addresses == {"0100007F"}  # 127.0.0.1 in /proc/net/tcp


def socket_inodes(up: Any, processes: dict[str, int]) -> set[str]:
    """The sockets of the agent's processes."""
    links = (
        os.readlink(link)
        for pid in (up.process.pid, *processes.values())
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink()
    )
    return {link[8:-1] for link in links if link.startswith("socket:[")}


def listening() -> list[tuple[str, str]]:
    """The inode and the address of every listening TCP socket."""
    rows = [
        line.split()
        for name in ("tcp", "tcp6")
        for line in Path("/proc/net", name).read_text().splitlines()[1:]
    ]
    return [(row[9], row[1].partition(":")[0]) for row in rows if row[3] == "0A"]
