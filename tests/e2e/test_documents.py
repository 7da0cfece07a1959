"""From the engine's own words to the document that Sematext gets, through every part."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
from broker import NatsServer, eventually
from documents import assert_tells_of
from receiver import TOKEN, Receiver

from sematext_agent.forwarder.documents import enrich
from sematext_agent.shared.events import decode

SOCKET = Path("/var/run/docker.sock")
FIXTURES = Path(__file__).parents[1] / "docker_collector" / "fixtures"


@pytest.mark.parametrize("events", sorted(FIXTURES.glob("*.events.jsonl")), ids=lambda p: p.stem)
def test_every_recorded_message_of_an_engine_becomes_a_document_with_its_tags(events: Path) -> None:
    lines = events.read_bytes().splitlines()
    assert len(lines) > 10
    for line in lines:
        event = decode(line)
        assert_tells_of(enrich(event, None), event)


@pytest.fixture
async def documents(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """What the receiver stores, while the real forwarder and Docker collector run."""
    async with Receiver() as receiver:
        environ = os.environ | {
            "NATS_URL": nats_server.url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": receiver.url,
            "DOCKER_TRANSPORT": f"unix://{SOCKET}",
            "HOSTNAME_ALIAS": "web-01",
        }
        with (tmp_path / "collector.log").open("wb") as log:
            parts = [
                subprocess.Popen(
                    [sys.executable, "-m", f"sematext_agent.{name}"], env=environ, stderr=log
                )
                for name in ("forwarder", "docker_collector")
            ]
        told = tmp_path / "collector.log"
        await eventually(lambda: "connected to the Docker Engine" in told.read_text())
        yield receiver.documents
        for part in parts:
            part.send_signal(signal.SIGTERM)
        assert [part.wait(20) for part in parts] == [0, 0]


@pytest.mark.skipif(not SOCKET.exists(), reason="no Docker Engine on this machine")
async def test_the_life_of_a_real_container_is_one_document_each(
    documents: list[dict[str, Any]],
) -> None:
    name = f"e2e-documents-{os.getpid()}"

    def live() -> str:
        client = docker.from_env()
        container = client.containers.create("nats:2.15-alpine", name=name, labels={"app": "shop"})
        container.start()
        container.rename(f"{name}-renamed")
        container.kill("SIGUSR1")
        container.kill()
        container.wait()
        container.remove()
        client.close()
        return str(container.id)

    container_id = await asyncio.to_thread(live)

    def statuses() -> list[str]:
        return [d["container.status"] for d in documents if d.get("container.id") == container_id]

    await eventually(lambda: "destroy" in statuses())
    ours = [
        d
        for d in documents
        if d.get("container.id") == container_id and d["container.object"] == "container"
    ]
    by_status = {d["container.status"]: d for d in ours}
    expected = ["create", "start", "rename", "kill", "kill", "die", "destroy"]
    assert sorted(d["container.status"] for d in ours) == sorted(expected)
    assert len({d["event.id"] for d in ours}) == len(ours)
    for document in ours:
        assert document["message"].startswith("Docker Event: ")
        assert document["os.host"] == "web-01"
        assert document["container.image"] == document["container.from"] == "nats:2.15-alpine"
        assert "app: shop" in document["message"]
    assert by_status["start"]["container.name"] == name
    assert by_status["die"]["container.name"] == f"{name}-renamed"
    assert by_status["die"]["docker.exit_code"] == 137
    assert by_status["die"]["severity"] == "warning"
