"""The agent as a user has it: `agentctl up` with the real parts, against a receiver."""

from __future__ import annotations

import asyncio
import signal
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import pytest
from broker import eventually
from receiver import TOKEN, Receiver, Reply

from sematext_agent.shared import listener

Start = Callable[..., Awaitable[Any]]


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as receiver:
        yield receiver


@pytest.fixture
def up(start: Start, tmp_path: Path, receiver: Receiver) -> Callable[..., Awaitable[Any]]:
    """Starts the agent; it leaves this machine's own events out."""

    async def start_up(**environ: str) -> Any:
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
    """What the receiver stored of the agent's own life, in order."""
    found = (document["title"] for document in receiver.documents)
    return [title.split()[0] for title in found if title.startswith("agent_")]


async def test_start_and_stop_are_delivered_though_everything_stops_together(
    up: Callable[..., Awaitable[Any]], receiver: Receiver
) -> None:
    agent = await up()
    await eventually(lambda: titles(receiver) == ["agent_started"], seconds=30)
    assert await agent.end(signal.SIGINT) == 0
    assert titles(receiver) == ["agent_started", "agent_stopped"]
    assert set(receiver.stored.values()) == {1}
    assert not any(TOKEN in line for line in agent.out + agent.err)
    # An ordinary start and stop give nobody a reason to worry.
    assert not any("forwarder  | WARNING" in line for line in agent.out)


async def test_a_killed_agent_is_reported_by_its_next_start(
    up: Callable[..., Awaitable[Any]], receiver: Receiver
) -> None:
    agent = await up()
    await eventually(lambda: titles(receiver) == ["agent_started"], seconds=30)
    await agent.end(signal.SIGKILL)
    agent = await up()
    await eventually(lambda: len(titles(receiver)) == 3, seconds=30)
    assert sorted(titles(receiver)[1:]) == ["agent_started", "agent_stopped"]
    assert await agent.end(signal.SIGINT) == 0
    assert set(receiver.stored.values()) == {1}


async def test_what_was_refused_can_be_sent_once_more(
    up: Callable[..., Awaitable[Any]], receiver: Receiver, start: Start, tmp_path: Path
) -> None:
    """The headers and ids of a dead letter, as one service writes them and the other reads them."""
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
    await eventually(lambda: "agent_started" in titles(receiver), seconds=30)
    assert await agent.end(signal.SIGINT) == 0


async def test_a_setting_that_the_forwarder_cannot_use_ends_it_soon(
    up: Callable[..., Awaitable[Any]], receiver: Receiver
) -> None:
    agent = await up(REGION="MARS", DRAIN_SECONDS="60")
    assert await agent.end() == 2
    assert agent.out[-1].startswith("agentctl: forwarder: REGION=MARS: ")
    assert "US or EU" in agent.out[-1]


async def test_the_page_is_there_by_default_wherever_there_is_a_port(
    up: Callable[..., Awaitable[Any]],
) -> None:
    with ExitStack() as taken:
        with suppress(OSError):  # somebody else has it: just as well
            taken.enter_context(listener.listen("127.0.0.1", 8676))
        agent = await up()
        line = await agent.shows("  page    http://127.0.0.1:")
        address = line.split()[1]
        assert address != "http://127.0.0.1:8676/"
        await agent.shows("the page is on " + address)
        answer = await asyncio.to_thread(lambda: urllib.request.urlopen(address).read().decode())
        assert "<title>Events" in answer
        assert await agent.end(signal.SIGINT) == 0


async def test_a_setting_leaves_the_page_out(up: Callable[..., Awaitable[Any]]) -> None:
    agent = await up(CONSOLE_ENABLED="false")
    parts = await agent.shows("  parts   ")
    await agent.shows("agent started")
    assert await agent.end(signal.SIGINT) == 0
    assert "console" not in parts
    assert not any("  page  " in line for line in agent.out)
