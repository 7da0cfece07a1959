"""From the messages of a Docker Engine to the documents that Sematext gets."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import docker
import pytest
from broker import NatsServer, wait_until
from documents import assert_describes
from receiver import TOKEN, Receiver

from sematext_agent.forwarder.documents import build_document
from sematext_agent.shared.events import decode

SOCKET = Path("/var/run/docker.sock")
IMAGE = "nats:2.15-alpine"
FIXTURES = Path(__file__).parents[1] / "docker_collector" / "fixtures"


def has_image() -> bool:
    """Return whether the engine of this machine runs and has the image."""
    command = ["docker", "image", "inspect", IMAGE]
    if not SOCKET.exists() or shutil.which("docker") is None:
        return False
    return subprocess.run(command, capture_output=True).returncode == 0


@pytest.mark.parametrize("events", sorted(FIXTURES.glob("*.events.jsonl")), ids=lambda p: p.stem)
def test_every_recorded_message_of_an_engine_becomes_a_document_with_the_common_tags(
    events: Path,
) -> None:
    lines = events.read_bytes().splitlines()
    assert len(lines) > 10
    for line in lines:
        event = decode(line)
        assert_describes(build_document(event, None), event)


@pytest.fixture
async def documents(nats_server: NatsServer, tmp_path: Path) -> AsyncIterator[list[dict[str, Any]]]:
    """Documents that the receiver stores while the real forwarder and Docker collector run."""
    async with Receiver() as receiver:
        environ = os.environ | {
            "NATS_URL": nats_server.url,
            "INFRA_TOKEN": TOKEN,
            "EVENTS_RECEIVER_URL": receiver.url,
            "DOCKER_TRANSPORT": f"unix://{SOCKET}",
            "HOSTNAME_ALIAS": "web-01",
        }
        log_path = tmp_path / "collector.log"
        with log_path.open("wb") as log:
            processes = [
                subprocess.Popen(
                    [sys.executable, "-m", f"sematext_agent.{name}"], env=environ, stderr=log
                )
                for name in ("forwarder", "docker_collector")
            ]
        await wait_until(lambda: "connected to the Docker Engine" in log_path.read_text())
        yield receiver.documents
        for process in processes:
            process.send_signal(signal.SIGTERM)
        assert [process.wait(20) for process in processes] == [0, 0]


@pytest.mark.skipif(not has_image(), reason=f"no Docker Engine with the image {IMAGE}")
async def test_each_step_of_a_real_containers_life_is_one_document(
    documents: list[dict[str, Any]],
) -> None:
    name = f"e2e-documents-{os.getpid()}"

    def run_container() -> str:
        client = docker.from_env()
        container = client.containers.create(IMAGE, name=name, labels={"app": "shop"})
        container.start()
        container.rename(f"{name}-renamed")
        container.kill("SIGUSR1")
        container.kill()
        container.wait()
        container.remove()
        client.close()
        return str(container.id)

    container_id = await asyncio.to_thread(run_container)

    def statuses() -> list[str]:
        return [d["container.status"] for d in documents if d.get("container.id") == container_id]

    await wait_until(lambda: "destroy" in statuses())
    of_container = [
        d
        for d in documents
        if d.get("container.id") == container_id and d["container.object"] == "container"
    ]
    by_status = {d["container.status"]: d for d in of_container}
    expected = ["create", "start", "rename", "kill", "kill", "die", "destroy"]
    assert sorted(d["container.status"] for d in of_container) == sorted(expected)
    assert len({d["event.id"] for d in of_container}) == len(of_container)
    for document in of_container:
        assert document["message"].startswith("Docker Event: ")
        assert document["os.host"] == "web-01"
        assert document["container.image"] == document["container.from"] == IMAGE
        assert "app: shop" in document["message"]
    assert by_status["start"]["container.name"] == name
    assert by_status["die"]["container.name"] == f"{name}-renamed"
    assert by_status["die"]["docker.exit_code"] == 137
    assert by_status["die"]["severity"] == "warning"
