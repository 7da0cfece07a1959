"""The agent as a user has it: `agentctl up` with the real services, against a receiver."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from broker import wait_until
from commands import Command, Start
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import bus, listener
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key

Up = Callable[..., Awaitable[Command]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def up(start: Start, tmp_path: Path, receiver: Receiver) -> Up:
    """Return a function that starts the agent without the events of this machine."""

    async def start_up(**environ: str) -> Command:
        return await start(
            "-m",
            "sematext_agent.agentctl",
            "up",
            "--state",
            tmp_path / "state",
            **{
                "INFRA_TOKEN": TOKEN,
                "EVENTS_RECEIVER_URL": receiver.url,
                "CONTAINER_EVENTS_ENABLED": "false",
                "CLOUD_METADATA_ENABLED": "false",
                "PKG_ENABLED": "false",
                "PKG_CONTAINER_ENABLED": "false",
                "DOCKER_TRANSPORT": f"unix://{tmp_path}/no-engine.sock",
            }
            | environ,
        )

    return start_up


def titles(receiver: Receiver) -> list[str]:
    """Return the titles of delivered lifecycle events, in order."""
    delivered = (document["title"] for document in receiver.documents)
    return [title.split()[0] for title in delivered if title.startswith("agent_")]


async def test_start_and_stop_are_delivered_though_everything_stops_together(
    up: Up, receiver: Receiver
) -> None:
    agent = await up()
    await wait_until(lambda: titles(receiver) == ["agent_started"], seconds=30)
    assert await agent.end(signal.SIGINT) == 0
    assert titles(receiver) == ["agent_started", "agent_stopped"]
    assert set(receiver.stored.values()) == {1}
    assert not any(TOKEN in line for line in agent.out + agent.err)
    # An ordinary start and stop have no warning.
    assert not any("forwarder  | WARNING" in line for line in agent.out)


async def wait_for_run_record(state: Path) -> None:
    """Wait until the lifecycle collector has stored its cursor, which comes after its event."""
    url = urlsplit((state / "nats-url").read_text().strip())
    settings = ServiceSettings(
        nats_url=(f"nats://{url.hostname}:{url.port}",),
        nats_user=url.username or "",
        nats_password=Secret(url.password or ""),
    )
    connection = await bus.connect(settings, "test")
    async with asyncio.timeout(30):
        while await connection.get(CURSORS_BUCKET, bucket_key("lifecycle", "web-01")) is None:
            await asyncio.sleep(0.01)
    await connection.close()


async def test_a_killed_agent_is_reported_by_its_next_start(
    up: Up, receiver: Receiver, tmp_path: Path
) -> None:
    agent = await up()
    await wait_until(lambda: titles(receiver) == ["agent_started"], seconds=30)
    await wait_for_run_record(tmp_path / "state")
    await agent.end(signal.SIGKILL)
    agent = await up()
    await wait_until(lambda: len(titles(receiver)) == 3, seconds=30)
    assert sorted(titles(receiver)[1:]) == ["agent_started", "agent_stopped"]
    assert await agent.end(signal.SIGINT) == 0
    assert set(receiver.stored.values()) == {1}


async def test_a_dead_letter_can_be_replayed(
    up: Up, receiver: Receiver, start: Start, tmp_path: Path
) -> None:
    """One service writes the headers and ids of a dead letter, and another reads them."""
    receiver.reply = Reply(400, b"not today")
    agent = await up()
    await agent.shows("dead letter")
    state = ("--state", tmp_path / "state")
    listed = await start("-m", "sematext_agent.agentctl", "dead", "list", *state)
    assert await listed.end() == 0
    number, *_ = (await listed.shows("agent started")).split()
    assert "400" in listed.out[0]
    receiver.reply = Reply()
    replayed = await start("-m", "sematext_agent.agentctl", "dead", "replay", number, *state)
    assert await replayed.end() == 0
    await wait_until(lambda: "agent_started" in titles(receiver), seconds=30)
    assert await agent.end(signal.SIGINT) == 0


async def test_a_setting_that_the_forwarder_cannot_use_ends_the_agent_soon(
    up: Up, receiver: Receiver
) -> None:
    agent = await up(REGION="MARS", DRAIN_SECONDS="60")
    assert await agent.end() == 2
    assert agent.out[-1].startswith("agentctl: forwarder: REGION=MARS: ")
    assert "US or EU" in agent.out[-1]


async def test_the_page_is_served_by_default_on_any_free_port(
    up: Up,
) -> None:
    with ExitStack() as occupied:
        with suppress(OSError):  # another process has it: just as well
            occupied.enter_context(listener.listen("127.0.0.1", 8676))
        agent = await up()
        line = await agent.shows("  page      http://127.0.0.1:")
        address = line.split()[1]
        assert address != "http://127.0.0.1:8676/"
        await agent.shows("the page is on " + address)
        answer = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
        assert "<title>Events" in answer
        assert await agent.end(signal.SIGINT) == 0
