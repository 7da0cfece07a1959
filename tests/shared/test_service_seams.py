"""A service as a simulation runs it: clock, randomness, client and listener are handed in."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from virtual_time import WALL_START_NS, ManualClock

from sematext_agent.shared.bus import TolerantClient
from sematext_agent.shared.service import Runtime, _serve
from sematext_agent.shared.settings import ServiceSettings

pytestmark = pytest.mark.virtual_time

REFUSALS = 5


class OfflineClient(TolerantClient):
    """A client whose broker refuses a few connections, then takes every message and sends none."""

    refusals = REFUSALS

    @property
    def is_connected(self) -> bool:
        return not self.refusals

    async def connect(self, *arguments: Any, **options: Any) -> None:
        if self.refusals:
            self.refusals -= 1
            raise ConnectionRefusedError("the broker is not started yet")

    def new_inbox(self) -> str:
        return "_INBOX.1"

    async def subscribe(self, *arguments: Any, **options: Any) -> Any:
        return OfflineSubscription()

    async def flush(self, timeout: float = 10) -> None: ...

    async def close(self) -> None: ...


class OfflineSubscription:
    _id = 1

    async def unsubscribe(self) -> None: ...


@pytest.fixture
def health_socket() -> Iterator[socket.socket]:
    """Yield a socket without any connection, in place of the health listener."""
    listener, peer = socket.socketpair()
    with listener, peer:
        yield listener


async def test_a_service_runs_in_virtual_time_on_what_it_is_handed(
    manual_clock: ManualClock, health_socket: socket.socket, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bounds: list[float] = []
    runtimes: list[Runtime[ServiceSettings]] = []

    def upper_bound(low: float, high: float) -> float:
        bounds.append(high)
        return high

    async def work(runtime: Runtime[ServiceSettings]) -> None:
        runtimes.append(runtime)
        await asyncio.sleep(3600)
        runtime.stopping.set()

    class InetSocket(socket.socket):
        def getsockname(self) -> Any:
            return "127.0.0.1", 1

    listener = InetSocket(fileno=health_socket.detach())
    with listener:
        await _serve(
            "test",
            work,
            ServiceSettings(),
            lambda settings: listener,
            OfflineClient,
            manual_clock,
            upper_bound,
        )
    (runtime,) = runtimes
    assert runtime.clock is manual_clock
    assert bounds == [0.1, 0.2, 0.4, 0.8, 1.6]
    assert manual_clock.monotonic() == pytest.approx(sum(bounds) + 3600)
    assert runtime.health.report().started == WALL_START_NS / 1e9
    lines = [record.getMessage() for record in caplog.records]
    waiting = "waiting for the broker at nats://127.0.0.1:4222: the broker is not started yet"
    assert lines.count(waiting) == 1
    assert lines[-1] == "stopped"
