"""Commands as real processes, and the users of a real broker."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from broker import NatsServer
from broker_users import BrokerUser, LogIn
from commands import Start, start_commands

from sematext_agent.agentctl.users import ensure_passwords, format_accounts, password_file
from sematext_agent.forwarder.consumers import consumer_config
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.shared import bus
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER


@pytest.fixture
async def start() -> AsyncIterator[Start]:
    """Return a function that starts `python <arguments>`."""
    async with start_commands() as start_command:
        yield start_command


@pytest.fixture
def accounts_server(tmp_path: Path) -> Iterator[NatsServer]:
    """Start a broker with the accounts of this agent."""
    text = format_accounts(ensure_passwords(tmp_path / "users"), open_tap=True)
    server = NatsServer(tmp_path, text)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def log_in(accounts_server: NatsServer) -> AsyncIterator[LogIn]:
    """Return a function that connects as the user of a name, or as nobody for an empty one."""
    connections: list[Bus] = []

    async def as_user(user: str) -> BrokerUser:
        password = (
            password_file(accounts_server.store / "users", user).read_text().strip() if user else ""
        )
        settings = ServiceSettings(
            nats_url=(accounts_server.url,), nats_user=user, nats_password=Secret(password)
        )
        connections.append(await bus.connect(settings, user))
        return BrokerUser(connections[-1])

    yield as_user
    for connection in connections:
        await connection.close()


@pytest.fixture
async def forwarder(log_in: LogIn) -> BrokerUser:
    """Log the forwarder in, and create its streams and its consumer."""
    forwarder = await log_in(FORWARDER_CONSUMER)
    for config in stream_configs(ForwarderSettings()):
        await forwarder.bus.request_api(f"STREAM.CREATE.{config['name']}", config)
    await forwarder.bus.request_api(
        f"CONSUMER.CREATE.{EVENTS_STREAM}.{FORWARDER_CONSUMER}",
        {"stream_name": EVENTS_STREAM, "config": consumer_config(1)},
    )
    return forwarder
