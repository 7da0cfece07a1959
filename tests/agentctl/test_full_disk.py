"""`agentctl up` on a disk that fills up while it runs, is full at its start or at its broker's."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from broker import wait_until
from commands import Command, Start
from publishing import connect, is_refused, publish
from receiver import TOKEN, Receiver
from small_disk import SmallDisk

from sematext_agent.agentctl.disk_watchdog import retry_while_disk_is_full
from sematext_agent.agentctl.users import password_file
from sematext_agent.shared import bus

RECOVERY_SECONDS_MAX = 30


class AgentOnDisk:
    """`agentctl up` with its state on a small disk, and a collector of the test's own."""

    def __init__(self, start: Start, disk: SmallDisk, receiver: Receiver) -> None:
        self._start = start
        self._receiver = receiver
        self.state = disk.path / "state"

    async def up(self) -> Command:
        return await self._start(
            *("-m", "sematext_agent.agentctl", "up", "--state", self.state),
            INFRA_TOKEN=TOKEN,
            EVENTS_RECEIVER_URL=self._receiver.url,
            CLOUD_METADATA_ENABLED="false",
            CONSOLE_ENABLED="false",
            PKG_ENABLED="false",
            DOCKER_TRANSPORT=f"unix://{self.state}/no-engine.sock",
        )

    def connect(self) -> AbstractAsyncContextManager[bus.Bus]:
        """Connect with the rights of the Docker collector."""
        url = urlsplit((self.state / "nats-url").read_text().strip())
        password = password_file(self.state / "users", "docker").read_text().strip()
        return connect(f"nats://{url.hostname}:{url.port}", "docker", password)

    def broker_pid(self, up: Command) -> int:
        """Return the process id of the broker; 0 where none runs."""
        children = Path(f"/proc/{up.process.pid}/task/{up.process.pid}/children").read_text()
        for pid in children.split():
            if str(self.state / "nats.conf") in Path(f"/proc/{pid}/cmdline").read_text():
                return int(pid)
        return 0

    async def is_delivered(self, name: str) -> None:
        """Wait for the delivery of the event `name`."""
        await wait_until(lambda: name in self._receiver.stored, RECOVERY_SECONDS_MAX)


async def test_the_flow_goes_on_by_itself_after_a_broker_was_started_on_a_full_disk(
    start: Start, disk: SmallDisk
) -> None:
    async with Receiver() as receiver:
        agent = AgentOnDisk(start, disk, receiver)
        up = await agent.up()
        await up.shows("agent started")
        async with agent.connect() as connection:
            await publish(connection, "before")
            await agent.is_delivered("before")
            disk.fill()
            first = agent.broker_pid(up)
            os.kill(first, signal.SIGKILL)
            await wait_until(lambda: agent.broker_pid(up) not in (0, first))
            assert await is_refused(connection, "meanwhile")
            disk.make_room()
            async with asyncio.timeout(RECOVERY_SECONDS_MAX):
                await publish(connection, "meanwhile")
                await agent.is_delivered("meanwhile")
        assert await up.end(signal.SIGINT) == 0


async def test_an_agent_that_is_started_on_a_full_disk_starts_once_there_is_room(
    start: Start, disk: SmallDisk
) -> None:
    async with Receiver() as receiver:
        agent = AgentOnDisk(start, disk, receiver)
        up = await agent.up()
        await up.shows("agent started")
        await up.end(signal.SIGKILL)
        disk.fill()
        up = await agent.up()
        await up.shows("cannot start yet")
        disk.make_room()
        await wait_until(lambda: bool(agent.broker_pid(up)), RECOVERY_SECONDS_MAX)
        async with agent.connect() as connection, asyncio.timeout(RECOVERY_SECONDS_MAX):
            await publish(connection, "after")
            await agent.is_delivered("after")
        assert await up.end(signal.SIGINT) == 0


def test_only_a_full_disk_is_waited_for() -> None:
    pauses: list[float] = []
    lines: list[str] = []
    failures = [OSError(28, "No space left on device"), OSError(122, "Disk quota exceeded")]

    def write() -> str:
        if failures:
            raise failures.pop(0)
        return "written"

    assert retry_while_disk_is_full(write, lines.append, pauses.append) == "written"
    assert len(pauses) == 2
    (line,) = lines
    assert "No space left on device" in line
    failures.append(PermissionError(13, "Permission denied"))
    with pytest.raises(PermissionError):
        retry_while_disk_is_full(write, lines.append, pauses.append)
