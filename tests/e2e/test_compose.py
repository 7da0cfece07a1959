"""`docker-compose up` on a real engine: everything healthy, events arrive, a stop is an event.

Without a token the forwarder prints each document, and the tests read them there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
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
    "nats",
    "forwarder",
    "console",
    "docker-collector",
    "engine-filter",
    "host-collector",
    "lifecycle-collector",
}
USERS = {"engine-filter": "0:0", "host-collector": "0:10002"}
"""Users other than 10001. The host collector is root until it has taken its capability."""
CAP_SYSLOG = 34  # capabilities(7)
HEALTHY_SECONDS_MAX = 30


class Composed:
    """A project of docker-compose.yml under a name of its own."""

    def __init__(self, packages: Path) -> None:
        self.name = f"e2e{os.getpid()}"
        self.port, self.page_port = free_port(), free_port()
        self._environ = os.environ | {
            "COMPOSE_PROJECT_NAME": self.name,
            "NATS_PORT": str(self.port),
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
        """Return the state of each service's container, with its health."""
        label = "com.docker.compose.service"
        listed = docker(
            "ps",
            "--filter",
            f"label=com.docker.compose.project={self.name}",
            "--format",
            f'{{{{.Label "{label}"}}}} {{{{.Status}}}}',
        )
        return dict(line.split(" ", 1) for line in listed.splitlines())

    def violations(self) -> list[str]:
        """Return the subjects that the broker has refused to any user."""
        return re.findall(r'Violation - Subject "(.*?)"', self.run("logs", "--no-color", "nats"))

    def container(self, service: str) -> dict[str, Any]:
        """Return the engine's description of a service's container."""
        (description,) = json.loads(docker("inspect", f"{self.name}_{service}_1"))
        return dict(description)

    def run_python(self, service: str, code: str) -> str:
        """Return the output of Python code in a service's container, with the service's rights."""
        prefix = self.container(service)["Config"]["Entrypoint"][:-1]  # setpriv, or nothing
        return docker("exec", f"{self.name}_{service}_1", *prefix, "python3", "-c", code)

    def documents(self) -> list[dict[str, Any]]:
        """Return the documents that the forwarder has printed so far."""
        lines = self.run("logs", "--no-color", "forwarder").splitlines()
        texts = (line.partition("| ")[2] for line in lines)
        return [json.loads(text) for text in texts if text.startswith("{")]


def docker(*arguments: str) -> str:
    return subprocess.run(
        ["docker", *arguments], text=True, capture_output=True, check=True
    ).stdout.strip()


@pytest.fixture
def packages() -> Iterator[Path]:
    """A world-readable directory of this machine with a single Python package."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        folder = Path(directory, "site-packages")
        install(folder, "first", "1.0")
        yield folder


def install(folder: Path, name: str, version: str) -> None:
    """Write the metadata of a package as pip does."""
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


def check_confinement(composed: Composed, service: str) -> None:
    """Check for a read-only root, no needless capabilities, privileges or published ports."""
    container = composed.container(service)
    host = container["HostConfig"]
    assert host["ReadonlyRootfs"]
    assert not host["Privileged"]
    assert host["CapDrop"] == ["ALL"]
    assert host["CapAdd"] == (["SYSLOG", "SETUID"] if service == "host-collector" else None)
    assert "no-new-privileges:true" in host["SecurityOpt"]
    assert container["Config"]["User"] == USERS.get(service, "10001:10001")
    published = [port for ports in (host["PortBindings"] or {}).values() for port in ports]
    assert [port["HostIp"] for port in published] == ["127.0.0.1"] * (
        service in ("nats", "console")
    )
    assert not any("INFRA_TOKEN" in e for e in container["Config"]["Env"] if service != "forwarder")
    status = docker("exec", f"{composed.name}_{service}_1", "cat", "/proc/1/status")
    effective = int(re.search(r"CapEff:\s+(\w+)", status)[1], 16)  # type: ignore[index]
    assert effective == (1 << CAP_SYSLOG if service == "host-collector" else 0)
    user = re.search(r"Uid:\s+(\d+)\s", status)[1]  # type: ignore[index]
    assert user == {"engine-filter": "0", "host-collector": "10002"}.get(service, "10001")
    if service not in ("nats", "engine-filter"):
        sockets = ["/var/run/docker.sock", "/host/run/docker.sock"]
        code = f"import os; print(*filter(os.path.exists, {sockets}))"
        assert composed.run_python(service, code) == ""


def check_that_each_service_has_its_own_password_only(composed: Composed) -> None:
    code = "print(open('/run/nats/password').read(), *__import__('os').listdir('/run/nats'))"
    collectors = [s for s in SERVICES if s not in ("nats", "engine-filter")]
    outputs = [composed.run_python(service, code).split() for service in collectors]
    assert len({password for password, *_ in outputs}) == len(collectors)
    assert all(files == ["password"] for _, *files in outputs)


def check_that_the_host_collector_reads_world_readable_files_only(composed: Composed) -> None:
    """Check it against secrets in the host's file system, all of which is mounted there."""
    volumes = docker("volume", "ls", "--quiet", "--filter", f"name={composed.name}_users-").split()
    places = docker("volume", "inspect", "--format", "{{.Mountpoint}}", *volumes).split()
    store = docker("volume", "inspect", "--format", "{{.Mountpoint}}", f"{composed.name}_nats")
    forwarder = composed.container("forwarder")
    record = docker("info", "--format", "{{.DockerRootDir}}") + f"/containers/{forwarder['Id']}"
    process = f"/proc/{forwarder['State']['Pid']}"
    secrets = [
        *(f"{p}/accounts.conf" if "-nats/" in p else f"{p}/password" for p in places),
        f"{store}/jetstream",
        f"{record}/config.v2.json",
        f"{process}/environ",
        f"{process}/root",
        "/etc/shadow",
    ]
    code = f"""if True:
        import os
        for path in {secrets}:
            try:
                os.close(os.open("/host" + path, os.O_RDONLY))
                print(path)
            except PermissionError:
                pass
        # A process that can write it can become root on the host.
        print(os.access("/host/proc/sys/kernel/core_pattern", os.W_OK, effective_ids=True))
        print(os.access("/host/etc/os-release", os.R_OK, effective_ids=True))
        """
    assert composed.run_python("host-collector", code).split() == ["False", "True"]
    listing = docker(
        "run",
        "--rm",
        "--volume",
        "/:/host:ro",
        "--user",
        "0",
        "--entrypoint",
        "ls",
        "sematext-agent/agentctl",
        "--directory",
        *(f"/host{path}" for path in secrets),
    )
    assert len(listing.splitlines()) == len(secrets)  # every secret exists


def check_that_the_engine_filter_refuses_other_requests(composed: Composed) -> None:
    """Check it with requests that an attacker in the Docker collector could make."""
    code = """if True:
        import http.client
        for line in LINES:
            connection = http.client.HTTPConnection("engine-filter", 2375)
            connection.request(*line.split())
            print(connection.getresponse().status)
        """
    refused = [
        "POST /v1.41/containers/create",
        "POST /v1.41/containers/x/exec",
        "GET /info",
        "GET /v1.41/containers/x/archive?path=/",
        "DELETE /v1.41/containers/x",
        "GET /v1.41/images/../secrets",
        "HEAD /version",
        "GET //v1.41/containers/json",
    ]
    lines = [*refused, "GET /version"]
    answers = composed.run_python("docker-collector", code.replace("LINES", repr(lines)))
    assert answers.split() == ["403"] * len(refused) + ["200"]


def check_that_a_tap_without_a_password_may_only_listen(composed: Composed) -> None:
    """Check it as `nats sub` on the host would, with the protocol by hand."""
    with socket.create_connection(("127.0.0.1", composed.port), timeout=10) as wire:
        wire.sendall(b"CONNECT {}\r\nSUB events.> 1\r\nPUB never.allowed 1\r\nx\r\nPING\r\n")
        answer = b""
        while b"PONG" not in answer:
            answer += wire.recv(65536)
    assert b'Permissions Violation for Publish to "never.allowed"' in answer
    assert answer.count(b"-ERR") == 1


def check_that_the_streams_of_an_older_version_are_kept(composed: Composed) -> None:
    """Check it with the streams in the default account, where an older version had all users."""
    docker(
        "run",
        "--rm",
        "--user",
        "10001",
        "--volume",
        f"{composed.name}_nats:/data",
        "--entrypoint",
        "mv",
        "nats:2.15-alpine",
        "/data/jetstream/AGENT",
        "/data/jetstream/$G",
    )
    composed.run("up", "--detach", "nats")
    restored = re.compile(r"Restored [1-9]\d* messages for stream 'AGENT > EVENTS'")
    wait_until(lambda: restored.search(composed.run("logs", "--no-color", "nats")), 30)


def wait_until(condition: Callable[[], object], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, condition
        time.sleep(0.3)


def test_services_get_healthy_deliver_events_and_publish_their_stop(
    composed: Composed, packages: Path
) -> None:
    composed.run("up", "--detach")

    def healthy() -> bool:
        states = composed.states()
        return states.keys() == SERVICES and all("(healthy)" in s for s in states.values())

    wait_until(healthy, HEALTHY_SECONDS_MAX)
    with urllib.request.urlopen(f"http://127.0.0.1:{composed.page_port}/") as page:
        assert "<title>Events" in page.read().decode()

    for service in SERVICES:
        check_confinement(composed, service)
    check_that_each_service_has_its_own_password_only(composed)
    check_that_the_host_collector_reads_world_readable_files_only(composed)
    check_that_the_engine_filter_refuses_other_requests(composed)
    check_that_a_tap_without_a_password_may_only_listen(composed)
    install(packages, "second", "2.0")
    name = f"{composed.name}-killed"
    allocation = "x = bytearray(100 * 1024 * 1024)"
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
            allocation,
        ],
        check=False,  # the kernel kills it
    )

    def delivered() -> set[str]:
        documents = composed.documents()
        return {d["message"].split(" with pid")[0] for d in documents} | {
            d["container.status"] for d in documents if d.get("container.name") == name
        }

    host = docker("info", "--format", "{{.Name}}")
    package = f"Package second, version 2.0 has been installed on host {host}"
    expected = {"create", "start", "die", "destroy", "python3 process", package}
    wait_until(lambda: delivered() >= expected, 10)

    assert composed.violations() == ["never.allowed"]
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
    ended = docker("ps", "--all", "--filter", label, "--format", "{{.Names}} {{.Status}}")
    assert len(ended.splitlines()) == len(SERVICES | {"users"})
    assert [line for line in ended.splitlines() if " Exited (0) " not in line] == []
    check_that_the_streams_of_an_older_version_are_kept(composed)
