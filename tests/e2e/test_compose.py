"""`docker-compose up` on a real engine: everything healthy, events arrive, a stop is told.

Without a token the forwarder runs dry and prints each document, which is where they are read here.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import free_port

ROOT = Path(__file__).parents[2]
COMPOSE = shutil.which("docker-compose")
pytestmark = [
    pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine"),
    pytest.mark.skipif(
        not Path("/var/run/docker.sock").exists(), reason="no Docker Engine on this machine"
    ),
]

SERVICES = {
    "nats", "forwarder", "console", "docker-collector", "host-collector", "lifecycle-collector",
}  # fmt: skip
HEALTHY_SECONDS_MAX = 30


class Composed:
    """A project of docker-compose.yml under a name of its own."""

    def __init__(self, packages: Path) -> None:
        self.name = f"e2e{os.getpid()}"
        self.page_port = free_port()
        self._environ = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "NATS_PORT": str(free_port()),
            "CONSOLE_PORT": str(self.page_port),
            "INFRA_TOKEN": "",
            "PKG_PATHS": str(packages),
        }

    def run(self, *arguments: str) -> str:
        done = subprocess.run(
            [str(COMPOSE), *arguments], cwd=ROOT, env=self._environ, text=True, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def states(self) -> dict[str, str]:
        """By service: what the engine says of its health."""
        label = "com.docker.compose.service"
        listed = docker(
            "ps", "--filter", f"label=com.docker.compose.project={self.name}",
            "--format", f'{{{{.Label "{label}"}}}} {{{{.Status}}}}',
        )  # fmt: skip
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def violations(self) -> list[str]:
        """What the broker refused to any of them."""
        return [line for line in self.run("logs", "nats").splitlines() if "Violation" in line]

    def documents(self) -> list[dict[str, Any]]:
        """What the forwarder has printed so far."""
        lines = self.run("logs", "--no-color", "forwarder").splitlines()
        found = (line.partition("| ")[2] for line in lines)
        return [json.loads(text) for text in found if text.startswith("{")]


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], text=True, capture_output=True, check=True
    ).stdout.strip()


@pytest.fixture
def packages(tmp_path: Path) -> Path:
    """A directory of this machine that holds Python packages: one."""
    folder = tmp_path / "site-packages"
    install(folder, "first", "1.0")
    return folder


def install(folder: Path, name: str, version: str) -> None:
    """What pip leaves of a package."""
    info = folder / f"{name}-{version}.dist-info"
    info.mkdir(parents=True)
    (info / "RECORD").touch()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\n")


@pytest.fixture
def composed(packages: Path) -> Iterator[Composed]:
    project = Composed(packages)
    project.run("build")
    yield project
    project.run("down", "--volumes", "--timeout", "20")


def wait_until(condition: Any, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.3)


def test_all_are_healthy_events_arrive_and_down_tells_the_stop(
    composed: Composed, packages: Path
) -> None:
    composed.run("up", "--detach")

    def healthy() -> bool:
        states = composed.states()
        return states.keys() == SERVICES and all("(healthy)" in s for s in states.values())

    wait_until(healthy, HEALTHY_SECONDS_MAX)
    with urllib.request.urlopen(f"http://127.0.0.1:{composed.page_port}/") as page:
        assert "<title>Events" in page.read().decode()

    assert composed.violations() == []
    install(packages, "second", "2.0")
    name = f"{composed.name}-seen"
    greedy = "x = bytearray(100 * 1024 * 1024)"
    image = "python:3.11-slim-bookworm"
    subprocess.run(
        [
            "docker",
            "run",
            "--rm",
            "--name",
            name,
            "--memory",
            "16m",
            image,
            "python3",
            "-c",
            greedy,
        ],
        check=False,  # it is killed
    )

    def told() -> set[str]:
        documents = composed.documents()
        return {d["message"].split(" with pid")[0] for d in documents} | {
            d["container.status"] for d in documents if d.get("container.name") == name
        }

    host = docker("info", "--format", "{{.Name}}")
    package = f"Package second, version 2.0 has been installed on host {host}"
    expected = {"create", "start", "die", "destroy", "python3 process", package}
    wait_until(lambda: told() >= expected, 10)

    composed.run("stop", "--timeout", "20")
    messages = [document["message"] for document in composed.documents()]
    assert f"Package first, version 1.0 has been installed on host {host}" not in messages
    assert messages.count(package) == 1
    assert [m.split(" ")[0] for m in messages if m.startswith("agent_")] == [
        "agent_started",
        "agent_stopped",
    ]
    assert all(m.endswith(f" / on {host}") for m in messages if m.startswith("agent_"))
    label = f"label=com.docker.compose.project={composed.name}"
    ended = docker("ps", "--all", "--filter", label, "--format", "{{.Status}}").splitlines()
    assert len(ended) == len(SERVICES | {"users"})
    assert all(status.startswith("Exited (0)") for status in ended)
