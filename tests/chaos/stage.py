"""The stage of a fault: real processes and a real broker, under a steady load.

The supervisor of `agentctl up` starts every process again that a fault ends, as in production.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from broker import NATS_SERVER, free_port, wait_for_port, wait_for_streams
from receiver import TOKEN, Receiver

from sematext_agent.agentctl import disk_watchdog
from sematext_agent.agentctl.broker import SYSTEM_USER
from sematext_agent.agentctl.supervised_process import SupervisedProcess
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings

EVENTS_PER_SECOND = 200
USER, PASSWORD = "agent", "a-password"
ORACLE_USER = "oracle"
REQUEST_SECONDS = 10
"""Request timeout of the forwarder."""
_TESTS = Path(__file__).parents[1]


class Part(SupervisedProcess):
    """A supervised process of the agent, with its log in a file."""

    def __init__(
        self, name: str, command: tuple[str, ...], environ: Mapping[str, str], folder: Path
    ) -> None:
        self.log = folder / f"{name}.log"
        super().__init__(name, command, environ, self._write)
        self.task: asyncio.Task[int] | None = None

    def _write(self, _: str, line: str) -> None:
        with self.log.open("a") as log:
            log.write(line + "\n")

    def start(self) -> None:
        """Start the process and keep it running."""
        self._stopping.clear()
        self._ended.clear()
        self.task = asyncio.create_task(self.run(), name=self.name)

    def send(self, number: signal.Signals) -> None:
        """Send a signal to the process."""
        self.send_signal(number)

    async def restart_with(self, number: signal.Signals) -> None:
        """Send a signal that ends the process, and wait until the supervisor has restarted it."""
        before = self.condition.detail
        self.send(number)
        async with asyncio.timeout(60):
            while self.condition.detail == before or not self.condition.ok:
                await asyncio.sleep(0.02)

    async def end(self) -> None:
        """Stop the process until the next `start`."""
        if self.task is not None:
            self.send(signal.SIGCONT)  # a stopped process handles no SIGTERM
            await self.stop(15)
            await self.task


class Source:
    """The log that the collector follows."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.lines: list[bytes] = []
        path.touch()

    def append(self, events: int = 1, size: int = 200) -> None:
        """Append `events` events, each with `size` bytes of filler."""
        first = len(self.lines)
        lines = [
            b"%d %d %d\n" % (number, time.time_ns(), size)
            for number in range(first, first + events)
        ]
        with self.path.open("ab") as log:
            log.write(b"".join(lines))
        self.lines += lines

    @contextlib.asynccontextmanager
    async def flowing(self) -> AsyncIterator[None]:
        """Append events at a steady rate while the block runs."""
        flow = asyncio.create_task(self._flow())
        try:
            yield
        finally:
            flow.cancel()

    async def _flow(self) -> None:
        began, appended = time.monotonic(), 0
        while True:
            behind = int((time.monotonic() - began) * EVENTS_PER_SECOND) - appended
            self.append(behind)
            appended += behind
            await asyncio.sleep(0.02)


class Stage:
    """A collector, forwarders, a broker and a receiver that a fault can strike."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder = folder
        self.random = random.Random(seed)
        self.receiver = Receiver()
        self.source = Source(folder / "source.log")
        self.store = folder / "jetstream"
        self.store.mkdir()
        self.broker_port = free_port()
        self.environ: dict[str, str] = {}
        """Additions of a fault to the environment of the forwarder."""
        self.prefix: tuple[str, ...] = ()
        """Words that a fault puts before the forwarder's command."""
        self.receiver_host = "127.0.0.1"
        """The receiver's name in the forwarder's settings."""
        self.forwarders: list[Part] = []
        self.broker: Part
        self.collector: Part
        self.connection: bus.Bus

    @property
    def forwarder(self) -> Part:
        """The first forwarder, and usually the only one."""
        return self.forwarders[0]

    @contextlib.asynccontextmanager
    async def running(self, forwarders: int = 1) -> AsyncIterator[None]:
        """Run all processes while the block runs."""
        async with self.receiver:
            self._make_parts(forwarders)
            try:
                for part in self.parts:
                    part.start()
                await asyncio.to_thread(wait_for_port, self.broker_port, 30)
                self.connection = await bus.connect(self._settings(ORACLE_USER), "oracle")
                system = await bus.connect(self._settings(SYSTEM_USER), "agentctl up, disk")
                guarding = asyncio.create_task(self._guard_disk(system))
                await wait_for_streams(self.connection)
                yield
                guarding.cancel()
                await system.close()
                await self.connection.close()
            finally:
                await asyncio.gather(*(part.end() for part in self.parts))

    async def _guard_disk(self, system: bus.Bus) -> None:
        """Restart the broker when its disk has room again, as `agentctl up` does."""
        await disk_watchdog.watch_disk(
            partial(disk_watchdog.read_broker_problem, system),
            lambda _: self.broker.restart(),
            self.store,
        )

    @property
    def parts(self) -> tuple[Part, ...]:
        """All processes in the order of their start, which is the reverse of their stop."""
        return self.broker, *self.forwarders, self.collector

    def _make_parts(self, forwarders: int) -> None:
        self.permit()
        nats = (str(NATS_SERVER), "-c", str(self.folder / "nats.conf"))
        self.broker = Part("nats", nats, {}, self.folder)
        common = dict(os.environ) | {
            "NATS_URL": f"nats://127.0.0.1:{self.broker_port}",
            "NATS_USER": USER,
            "NATS_PASSWORD": PASSWORD,
            "PYTHONPATH": str(_TESTS),
            "API_SERVER_PORT": "0",
            "HOSTNAME_ALIAS": "chaos",
            "NUMBERED_LOG": str(self.source.path),
        }
        follow = (sys.executable, "-m", "chaos.numbered")
        self.collector = Part("collector", follow, common, self.folder)
        forward = (*self.prefix, sys.executable, "-m", "sematext_agent.forwarder")
        receiver = self.receiver.url.replace("127.0.0.1", self.receiver_host)
        settings = (
            common
            | {
                "INFRA_TOKEN": TOKEN,
                "EVENTS_RECEIVER_URL": receiver,
                "REQUEST_TIMEOUT": f"{REQUEST_SECONDS}s",
                "CONNECT_TIMEOUT": "2s",
            }
            | self.environ
        )
        self.forwarders = [
            Part(f"forwarder-{number}", forward, settings, self.folder)
            for number in range(forwarders)
        ]

    def permit(self, permissions: str = "", password: str = PASSWORD) -> None:
        """Write the broker's configuration; by default the agent's user may do everything."""
        (self.folder / "nats.conf").write_text(f"""\
listen: "127.0.0.1:{self.broker_port}"
jetstream {{ store_dir: "{self.store}", sync_interval: always }}
authorization {{ users: [
  {{ user: {ORACLE_USER}, password: "{PASSWORD}" }}
  {{ user: {USER}, password: "{password}"{permissions} }}
] }}
accounts {{ $SYS {{ users: [ {{ user: {SYSTEM_USER}, password: "{PASSWORD}" }} ] }} }}
""")

    def _settings(self, user: str) -> ServiceSettings:
        url = f"nats://127.0.0.1:{self.broker_port}"
        return ServiceSettings(nats_url=(url,), nats_user=user, nats_password=Secret(PASSWORD))

    async def api(self, call: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send a request to JetStream's API until it is answered."""
        while True:
            try:
                return await self.connection.request_api(call, request)
            except bus.JetStreamError:
                raise
            except bus.BusError:
                await asyncio.sleep(0.2)
