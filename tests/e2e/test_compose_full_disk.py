"""docker-compose with the broker's store on a small disk: a full one stops nothing for good."""

from __future__ import annotations

import asyncio
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from broker import free_port, wait_for_port, wait_until
from publishing import connect, is_refused, publish
from small_disk import SmallDisk

ROOT = Path(__file__).parents[2]
COMPOSE = shutil.which("docker-compose")
pytestmark = [
    pytest.mark.skipif(COMPOSE is None, reason="no docker-compose on this machine"),
    pytest.mark.skipif(
        not Path("/var/run/docker.sock").exists(), reason="no Docker Engine on this machine"
    ),
]
RECOVERY_SECONDS_MAX = 30


def run(*command: str, **environ: str) -> str:
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | environ, text=True, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


class ComposedOnDisk:
    """The broker and the forwarder of docker-compose.yml; the broker's volume is a small disk."""

    def __init__(self, disk: SmallDisk) -> None:
        self.name = f"disk{os.getpid()}"
        self.port = free_port()
        self._override = disk.path.with_name("override.yml")
        options = {"type": "none", "o": "bind", "device": str(disk.path)}
        self._override.write_text(yaml.safe_dump({"volumes": {"nats": {"driver_opts": options}}}))

    def compose(self, *arguments: str) -> str:
        files = ("-f", str(ROOT / "docker-compose.yml"), "-f", str(self._override))
        project = ("--project-directory", str(ROOT), "-p", self.name)
        environ = {"NATS_PORT": str(self.port), "INFRA_TOKEN": ""}
        return run(str(COMPOSE), *files, *project, *arguments, **environ)

    def password(self) -> str:
        volume = f"{self.name}_users-docker:/users:ro"
        image = ("--entrypoint", "cat", "nats:2.15-alpine")
        return run("docker", "run", "--rm", "-v", volume, *image, "/users/password").strip()

    def kill_broker(self) -> None:
        """Kill the broker, and start it as the engine does after a start of the machine."""
        container = f"{self.name}_nats_1"
        run("docker", "kill", container)
        run("docker", "start", container)
        wait_for_port(self.port, 30)

    def has_delivered(self, name: str) -> bool:
        """Return whether the forwarder, which runs dry, has printed the event `name`."""
        return f'"{name}"' in self.compose("logs", "--no-color", "forwarder")


@pytest.fixture
def composed(disk: SmallDisk) -> Iterator[ComposedOnDisk]:
    project = ComposedOnDisk(disk)
    project.compose("build", "users", "forwarder")
    try:
        yield project
    finally:
        project.compose("down", "--volumes", "--timeout", "5")


# The engine's proxy takes connections while the broker is away: nats-py leaves its sockets behind.
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_a_broker_that_was_started_on_a_full_disk_takes_events_once_there_is_room(
    composed: ComposedOnDisk, disk: SmallDisk
) -> None:
    await asyncio.to_thread(composed.compose, "up", "--detach", "nats", "forwarder")
    url = f"nats://127.0.0.1:{composed.port}"
    async with connect(url, "docker", composed.password()) as connection:
        async with asyncio.timeout(60):
            await publish(connection, "before")
        disk.fill()
        await asyncio.to_thread(composed.kill_broker)
        assert await is_refused(connection, "meanwhile")
        disk.make_room()
        async with asyncio.timeout(RECOVERY_SECONDS_MAX):
            await publish(connection, "meanwhile")
        await wait_until(lambda: composed.has_delivered("meanwhile"), RECOVERY_SECONDS_MAX)
