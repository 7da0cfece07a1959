"""Canary secrets through a run of the whole agent in which every request fails in some way.

They may stand in the forwarder's environment and in the files made for them, and nowhere else.
"""

from __future__ import annotations

import asyncio
import itertools
import os
import re
import signal
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from pathlib import Path
from urllib.parse import urlsplit
from urllib.request import urlopen

import pytest
from broker import free_port, wait_until
from forwarding import an_event
from receiver import Receiver, Reply, Request

from sematext_agent.shared import bus
from sematext_agent.shared.events import DockerEvent, encode
from sematext_agent.shared.settings import Secret, ServiceSettings
from sematext_agent.shared.subjects import subject_of

TOKEN, PROXY_PASSWORD = "canary-of-the-token", "canary-of-the-proxy"
RUN = {
    "CONTAINER_EVENTS_ENABLED": "false",
    "CLOUD_METADATA_ENABLED": "false",
    "PKG_ENABLED": "false",
    "PKG_CONTAINER_ENABLED": "false",
    "LOGGING_LEVEL": "debug",
    "LOGGING_WRITE_EVENTS": "true",
    "LOGGING_REQUEST_TRACKING": "true",
    "REQUEST_TIMEOUT": "300ms",
    "HOSTNAME_ALIAS": "web-01",
    "NATS_URL": "",
    "INFRA_TOKEN": TOKEN,
    "PROXY_USERNAME": "agent",
    "PROXY_PASSWORD": PROXY_PASSWORD,
}


_ERROR = f'{{"error": "no application for {TOKEN}"}}'.encode()
FAULTS = (
    Reply(403, _ERROR),
    Reply(500, _ERROR),
    Reply(302, b"", {"Location": f"http://x/{TOKEN}"}),
    Reply(429, _ERROR),
    Reply(how="hang"),
    Reply(how="cut"),
    Reply(how="garbage"),
    Reply(how="reset"),
    Reply(404, _ERROR),
    Reply(400, _ERROR),
    Reply(400, _ERROR),
)
"""With the token in every answer that can carry it."""


def faulty_replies() -> Callable[[Request], Reply]:
    """Return a script that answers with a fault every second time, with each in turn.

    In between it accepts the document: otherwise the forwarder would stop sending.
    """
    turns = itertools.cycle(reply for fault in FAULTS for reply in (fault, Reply()))
    return lambda _: next(turns)


async def publish(state: Path, events: int) -> None:
    """Publish `events` events as the user of the Docker collector."""
    broker = urlsplit((state / "nats-url").read_text().strip())
    password = (state / "users/docker/password").read_text().strip()
    settings = ServiceSettings(
        nats_url=(f"nats://127.0.0.1:{broker.port}",),
        nats_user="docker",
        nats_password=Secret(password),
    )
    connection = await bus.connect(settings, "docker")
    for number in range(events):
        body = DockerEvent(type="container", action="start", actor_id=str(number))
        event = an_event(number, body=body)
        await connection.publish(subject_of(event), encode(event), event.id)
    await connection.close()


async def run_agentctl(*arguments: object) -> str:
    """Return the output of a command of agentctl; `tap` runs until it is killed."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sematext_agent.agentctl",
        *map(str, arguments),
        stdout=PIPE,
        stderr=PIPE,
        env=os.environ | {"NATS_URL": ""},
    )
    try:
        async with asyncio.timeout(3 if "tap" in arguments else 60):
            out, err = await process.communicate()
    except TimeoutError:
        process.kill()
        out, err = await process.communicate()
    return (out + err).decode()


@pytest.mark.parametrize("way", ["receiver", "proxy"])
async def test_secrets_are_where_they_are_needed_and_nowhere_else(way: str, tmp_path: Path) -> None:
    state = tmp_path / "state"
    log = tmp_path / "log"
    async with Receiver() as receiver:
        receiver.reply = faulty_replies()
        to = {"EVENTS_RECEIVER_URL": receiver.url}
        if way == "proxy":
            # The receiver plays the proxy: it answers CONNECT with its faults.
            to = {"EVENTS_RECEIVER_URL": f"https://127.0.0.1:{free_port()}"}
            to |= {"PROXY_HOST": "127.0.0.1", "PROXY_PORT": str(receiver.port)}
        with log.open("wb") as out:
            agent = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                "sematext_agent.agentctl",
                "up",
                "--state",
                str(state),
                stdout=out,
                stderr=out,
                env=os.environ | RUN | to,
            )
        try:
            await wait_until(lambda: "streams: made" in log.read_text(), seconds=30)
            requests_min = 30 if way == "receiver" else 4
            await publish(state, requests_min)
            await wait_until(lambda: len(receiver.requests) >= requests_min, seconds=60)
            processes = processes_of(agent.pid)
            assert set(processes) >= {"agentctl", "nats", "lifecycle", "forwarder"}
            canaries = [TOKEN, PROXY_PASSWORD, *passwords(state)]
            tap = asyncio.create_task(run_agentctl("tap", "--json", "--state", state))
            commands = ["status", "dead list", "dead show 1"]
            outputs = await asyncio.gather(
                *(run_agentctl(*command.split(), "--state", state) for command in commands)
            )
            texts = dict(zip(commands, outputs, strict=True))
            texts["replay"] = await run_agentctl("dead", "replay", "--all", "--state", state)
            for port in re.findall(r"health on 127.0.0.1 port (\d+)", log.read_text()):
                for page in ("healthz", "readyz", "metrics"):
                    texts[f"{port}/{page}"] = await asyncio.to_thread(read, port, page)
            for name, pid in processes.items():
                texts[f"arguments of {name}"] = read_process_file(pid, "cmdline")
                if name not in ("forwarder", "agentctl"):
                    texts[f"environment of {name}"] = read_process_file(pid, "environ")
            assert TOKEN in read_process_file(processes["forwarder"], "environ")
            texts["tap"] = await tap
        finally:
            agent.send_signal(signal.SIGINT)
            await agent.wait()
    texts["log"] = log.read_text()
    files = [f for f in state.rglob("*") if f.is_file() and f.name not in SECRET_FILES]
    texts |= {str(file): file.read_bytes().decode(errors="replace") for file in files}
    assert "arguments of nats" in texts
    assert len(texts) > 20
    leaks = [(where, c) for where, text in texts.items() for c in canaries if c in text]
    assert leaks == []
    assert all((state / name).stat().st_mode & 0o077 == 0 for name in ("nats.conf", "nats-url"))


SECRET_FILES = ("password", "nats-url", "nats.conf")


def passwords(state: Path) -> list[str]:
    texts = [file.read_text().strip() for file in state.glob("users/*/password")]
    assert len(texts) > 5
    return texts


def processes_of(agent: int) -> dict[str, int]:
    """Return the process ids of `agentctl up` and of its children, by the name of the service."""
    names = {
        "nats-server": "nats",
        "lifecycle_collector": "lifecycle",
        "forwarder": "forwarder",
        "host_collector": "host",
        "docker_collector": "docker",
    }
    children = Path(f"/proc/{agent}/task/{agent}/children").read_text().split()
    processes = {"agentctl": agent}
    for pid in children:
        command = Path(f"/proc/{pid}/cmdline").read_text()
        processes |= {name: int(pid) for module, name in names.items() if module in command[:400]}
    return processes


def read_process_file(pid: int, name: str) -> str:
    return Path(f"/proc/{pid}/{name}").read_text()


def read(port: str, page: str) -> str:
    try:
        with urlopen(f"http://127.0.0.1:{port}/{page}", timeout=10) as response:
            return str(response.read().decode())
    except OSError as error:  # 503 of what is not ready
        body = getattr(error, "read", lambda: b"")()
        return str(body.decode())


async def test_a_bad_setting_shows_no_secret(tmp_path: Path) -> None:
    """Of the output of a crash see tests/shared/test_crash_logs.py."""

    async def check(environ: dict[str, str]) -> None:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-m",
            "sematext_agent.forwarder",
            env=os.environ | RUN | environ,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await process.communicate()
        assert process.returncode == 2
        assert len(err.splitlines()) == 1
        assert TOKEN not in (out + err).decode()
        assert PROXY_PASSWORD not in (out + err).decode()

    environments: list[dict[str, str]] = [
        {"INFRA_TOKEN": f"{TOKEN} with a blank"},
        {"EVENTS_RECEIVER_URL": f"https://user:{PROXY_PASSWORD}@127.0.0.1/{TOKEN}/event"},
        {"PROXY_HOST": f"http://agent:{PROXY_PASSWORD}@proxy:1"},
        {"TAGS": "a:b", "REGION": "MARS"},
        {"NATS_URL": f"http://agent:{PROXY_PASSWORD}@x"},
    ]
    await asyncio.gather(*map(check, environments))
