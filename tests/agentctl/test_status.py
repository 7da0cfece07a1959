"""`agentctl status`: the screen, and the exit status that a script can use."""

from __future__ import annotations

import argparse
import socket
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
from broker import NatsServer
from commands import Start

from sematext_agent.agentctl import connection as agentctl_connection
from sematext_agent.agentctl.state import CommandError, StateDirectory
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.health import Condition, Report
from sematext_agent.shared.subjects import STATUS_SUBJECT

STARTED = time.time() - 90000
DOCKER = Report(
    service="docker",
    origin="web-01",
    version="0.1.0",
    ready=True,
    started=STARTED,
    conditions={"source": Condition(True, "Docker Engine 29.0")},
    figures={},
)
FORWARDER = Report(
    service="forwarder",
    origin="web-01",
    version="0.1.0",
    ready=True,
    started=STARTED,
    conditions={"receiver": Condition(True, "takes events")},
    figures={"lag": 0.0},
)


async def answer_with(connection: Bus, *reports: Report) -> None:
    """Answer status requests with these reports, as services do."""

    async def answer(message: Any) -> None:
        await connection.send(message.reply, b"something else that listens here")
        for report in reports:
            await connection.send(message.reply, msgspec.json.encode(report))

    await connection.subscribe(STATUS_SUBJECT, answer)
    await connection.flush()


@pytest.fixture
async def events(connection: Bus) -> Bus:
    stream = StreamConfig(name="EVENTS", subjects=["events.>"], max_bytes=1024**2)
    await connection.manager.add_stream(stream)
    await connection.manager.add_consumer("EVENTS", durable_name="forwarder", ack_policy="explicit")
    await connection.manager.add_stream(StreamConfig(name="DEAD", subjects=["dead.>"]))
    return connection


async def test_the_screen_shows_services_conditions_buffer_lag_and_dead_letters(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    await answer_with(events, FORWARDER, DOCKER)
    for number in range(3):
        await events.publish("events.docker.web-01.container.start", b"{}", str(number))
    await events.publish("dead.events.docker.web-01.container.start", b"{}", "9")
    status = await start("-m", "sematext_agent.agentctl", "status", "--nats", nats_server.url)
    assert await status.end() == 0
    screen = [" ".join(line.split()) for line in status.out]
    assert screen[:5] == [
        "SERVICE ORIGIN STATE RUNNING VERSION",
        "docker web-01 ready 1 d 1 h 0.1.0",
        "source: Docker Engine 29.0",
        "forwarder web-01 ready 1 d 1 h 0.1.0",
        "receiver: takes events",
    ]
    assert screen[6].startswith("buffer ")
    assert screen[6].endswith(" of 1.0 MiB, 3 events")
    assert screen[7:] == [
        "lag 3 to deliver, 0 in flight",
        "dead letters 1 (see `agentctl dead list`)",
    ]


async def test_a_service_that_is_not_ready_is_marked_and_the_exit_status_is_1(
    events: Bus, nats_server: NatsServer, start: Start
) -> None:
    holding = msgspec.structs.replace(
        FORWARDER,
        ready=False,
        last_error="403 Forbidden",
        last_error_at=STARTED,
        conditions={"receiver": Condition(False, "holding: the token is refused")},
    )
    await answer_with(events, holding, DOCKER)
    status = await start("-m", "sematext_agent.agentctl", "status", "--nats", nats_server.url)
    assert await status.end() == 1
    await status.shows("NOT READY")
    await status.shows("  ! receiver: holding: the token is refused")
    await status.shows("last error    1 d 1 h ago, forwarder: 403 Forbidden")


async def test_without_an_answer_of_the_forwarder_the_exit_status_is_1(
    connection: Bus, nats_server: NatsServer, start: Start
) -> None:
    await answer_with(connection, DOCKER)
    status = await start("-m", "sematext_agent.agentctl", "status", "--nats", nats_server.url)
    assert await status.end() == 1
    await status.shows("The forwarder does not answer")
    await status.shows("buffer        not created yet")


async def test_without_a_broker_one_line_names_every_address_and_a_remedy(
    start: Start, tmp_path: Path
) -> None:
    password = "not-to-be-seen"
    StateDirectory(tmp_path).write_broker_url("tap", password)
    status = await start(
        "-m",
        "sematext_agent.agentctl",
        "status",
        "--state",
        tmp_path,
        NATS_URL="nats://127.0.0.1:1",
    )
    assert await status.end() == 1
    assert len(status.err) == 1
    assert "no broker at nats://127.0.0.1:1 (Connection refused)" in status.err[0]
    status = await start("-m", "sematext_agent.agentctl", "status", "--state", tmp_path)
    assert await status.end() in (0, 1)  # a broker of somebody else may be on the usual port
    assert not any(password in line for line in status.err + status.out)


async def test_a_server_that_never_answers_is_an_error_with_a_remedy(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(agentctl_connection, "CONNECT_SECONDS_MAX", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        address = f"127.0.0.1:{silent.getsockname()[1]}"
        options = argparse.Namespace(nats=address, state=tmp_path)
        with pytest.raises(CommandError, match="NATS_USER"):
            async with agentctl_connection.connect_to_broker(options):
                pass


@pytest.mark.parametrize("address", ["nats://host:port", "http://host", "nats://[::1]:1"])
async def test_an_unusable_address_is_one_line(start: Start, address: str) -> None:
    status = await start("-m", "sematext_agent.agentctl", "status", "--nats", address)
    assert await status.end() == 1
    assert len(status.err) == 1
