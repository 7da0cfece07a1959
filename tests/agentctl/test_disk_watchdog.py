"""The disk watchdog restarts the broker when its disk was full and has room again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from broker import NatsServer, wait_until

from sematext_agent.agentctl import disk_watchdog
from sematext_agent.agentctl.disk_watchdog import read_broker_problem, watch_disk
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings

GIBIBYTE = 1024**3


class SickBroker:
    """A broker with a problem, and the restarts that the watchdog ordered."""

    def __init__(self) -> None:
        self.problem = ""
        self.checks = 0
        self.restarts: list[str] = []

    async def read_problem(self) -> str:
        self.checks += 1
        return self.problem


@pytest.fixture
def free_bytes(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Free bytes of the disk; the last value counts."""
    values = [GIBIBYTE]
    monkeypatch.setattr(disk_watchdog, "CHECK_SECONDS", 0.001)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(GIBIBYTE, 0, values[-1])
    )
    return values


async def test_the_broker_is_restarted_once_the_disk_has_space(
    free_bytes: list[int], tmp_path: Path
) -> None:
    broker = SickBroker()
    watching = asyncio.create_task(
        watch_disk(broker.read_problem, broker.restarts.append, tmp_path)
    )
    await wait_until(lambda: broker.checks > 3)
    free_bytes.append(0)
    broker.problem = "no space left on device"
    checks = broker.checks
    await wait_until(lambda: broker.checks > checks + 5)
    assert broker.restarts == []
    free_bytes.append(GIBIBYTE)
    await wait_until(lambda: bool(broker.restarts))
    assert broker.restarts[0] == "no space left on device"
    watching.cancel()


async def test_the_system_account_may_ask_the_broker_for_its_health(
    nats_server: NatsServer,
) -> None:
    nats_server.stop()
    nats_server.configure("accounts { $SYS { users: [ { user: system, password: s } ] } }")
    nats_server.start()
    settings = ServiceSettings(
        nats_url=(nats_server.url,), nats_user="system", nats_password=Secret("s")
    )
    connection = await bus.connect(settings, "test")
    (answer,) = await connection.request_all(disk_watchdog.HEALTH_SUBJECT, 0.5)
    assert b'"status":"ok"' in answer
    assert await read_broker_problem(connection) == ""
    await connection.close()


async def test_the_problem_is_the_error_of_the_brokers_answer() -> None:
    class Connection:
        is_connected = True

        async def request_all(self, *_: object) -> list[bytes]:
            return [b"no JSON", b'{"data":{"status":"unavailable","error":"write error: full"}}']

    assert await read_broker_problem(Connection()) == "write error: full"  # type: ignore[arg-type]
