"""The nats-server of a systemd unit, with the disk watchdog beside it.

    python -m sematext_agent.agentctl.watched_broker /etc/sematext-agent/nats.conf

It ends when the server ends, and then its unit starts it again.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from sematext_agent.agentctl.disk_watchdog import ServerHealth, watch_disk

_has_monitor = re.compile(r"^\s*(https?|https?_port|monitor_port)\b", re.MULTILINE).search
_ANSWER_SECONDS = 5.0


class _Ports(msgspec.Struct):
    monitoring: list[str] = []
    """Addresses of the health page, such as http://127.0.0.1:8222."""


async def run(configuration: Path, environ: Mapping[str, str]) -> int:
    """Run the server until it ends; return its exit status.

    `STATE_DIRECTORY` and `RUNTIME_DIRECTORY` of `environ` are the directories of the unit.
    """
    directory = Path(environ["RUNTIME_DIRECTORY"])
    server = await asyncio.create_subprocess_exec(
        Path(sys.executable).with_name("nats-server"),
        *("-c", add_health_page(configuration, directory), "--ports_file_dir", directory),
    )

    def restart(problem: str) -> None:
        print(f"restarting the broker, whose disk has room again: {problem}", file=sys.stderr)
        server.terminate()

    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, server.terminate)
    ports = directory / f"nats-server_{server.pid}.ports"
    watching = asyncio.create_task(
        watch_disk(partial(read_problem, ports), restart, Path(environ["STATE_DIRECTORY"]))
    )
    status = await server.wait()
    watching.cancel()
    return status


def add_health_page(configuration: Path, directory: Path) -> Path:
    """Return a configuration with a health page: `configuration`, or one that includes it."""
    if _has_monitor(configuration.read_text()):
        return configuration
    extended = directory / "nats.conf"
    # Any free port of the loopback. The server takes the path as relative in any case.
    path = os.path.relpath(configuration, directory)
    extended.write_text(f'http: "127.0.0.1:-1"\ninclude "{path}"\n')
    return extended


async def read_problem(ports: Path) -> str:
    """Return the problem on the server's health page; empty if there is none or no answer.

    The server writes the file `ports` once it has read its streams and takes connections.
    """
    try:
        address = _read_address(ports)
        async with asyncio.timeout(_ANSWER_SECONDS):
            health = await _request_health(address)
    except (OSError, ValueError, TimeoutError):
        return ""
    return "" if health.status == "ok" else health.error or health.status


def _read_address(ports: Path) -> str:
    (address, *_) = msgspec.json.decode(ports.read_bytes(), type=_Ports).monitoring
    return address


async def _request_health(address: str) -> ServerHealth:
    url = urlsplit(address)
    reader, writer = await asyncio.open_connection(url.hostname, url.port)
    try:
        writer.write(b"GET /healthz HTTP/1.0\r\n\r\n")
        answer = await reader.read()
    finally:
        writer.close()
    return msgspec.json.decode(answer.partition(b"\r\n\r\n")[2], type=ServerHealth)


def main(arguments: Sequence[str]) -> int:
    """Run the server with the configuration that `arguments` name."""
    (configuration,) = arguments
    return asyncio.run(run(Path(configuration), os.environ))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
