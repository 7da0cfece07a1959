"""The broker is started again when its disk was full and has room again."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest
from broker import NatsServer, eventually

from sematext_agent.agentctl import vigil
from sematext_agent.shared import bus
from sematext_agent.shared.settings import Secret, ServiceSettings

GIBIBYTE = 1024**3


class Broker:
    """What `watch_disk` sees of one."""

    def __init__(self) -> None:
        self.problem = ""
        self.looks = 0
        self.restarts: list[str] = []

    async def unwell(self) -> str:
        self.looks += 1
        return self.problem


@pytest.fixture
def free(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How much room the disk has; the last of them counts."""
    room = [GIBIBYTE]
    monkeypatch.setattr(vigil, "LOOK_SECONDS", 0.001)
    monkeypatch.setattr(
        shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(GIBIBYTE, 0, room[-1])
    )
    return room


async def test_it_is_restarted_once_there_is_room(free: list[int], tmp_path: Path) -> None:
    broker = Broker()
    watching = asyncio.create_task(
        vigil.watch_disk(broker.unwell, broker.restarts.append, tmp_path)
    )
    await eventually(lambda: broker.looks > 3)
    free.append(0)
    broker.problem = "no space left on device"
    looks = broker.looks
    await eventually(lambda: broker.looks > looks + 5)
    assert broker.restarts == []
    free.append(GIBIBYTE)
    await eventually(lambda: bool(broker.restarts))
    assert broker.restarts[0] == "no space left on device"
    watching.cancel()


async def test_it_is_asked_as_the_system_account_may(nats_server: NatsServer) -> None:
    nats_server.stop()
    nats_server.configure("accounts { $SYS { users: [ { user: system, password: s } ] } }")
    nats_server.start()
    settings = ServiceSettings(
        nats_url=(nats_server.url,), nats_user="system", nats_password=Secret("s")
    )
    connection = await bus.connect(settings, "test")
    (answer,) = await connection.request_all(vigil.HEALTH, 0.5)
    assert b'"status":"ok"' in answer
    assert await vigil.unwell(connection) == ""
    await connection.close()


async def test_what_it_says_is_wrong_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    class Connection:
        is_connected = True

        async def request_all(self, *_: object) -> list[bytes]:
            return [b"no JSON", b'{"data":{"status":"unavailable","error":"write error: full"}}']

    assert await vigil.unwell(Connection()) == "write error: full"  # type: ignore[arg-type]
