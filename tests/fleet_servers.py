"""Clusters and leaf nodes of real nats-servers, with the configurations of deploy/fleet."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
import urllib.request
from pathlib import Path
from typing import Any

from broker import NATS_SERVER, free_port, wait_for_port

DEPLOY = Path(__file__).parent.parent / "deploy" / "fleet"
PASSWORD = "change-me"  # as in the examples of secrets
NAMES = ("nats-1", "nats-2", "nats-3")


class Server:
    """A nats-server that can be killed and started again on its store."""

    def __init__(self, name: str, folder: Path, configuration: str, **ports: int) -> None:
        self.name = name
        self.folder = folder
        self.ports = ports
        self.url = f"nats://127.0.0.1:{ports['client']}"
        folder.mkdir(parents=True)
        (folder / "server.conf").write_text(configuration)
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it accepts connections."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                [NATS_SERVER, "-c", self.folder / "server.conf"],
                stderr=log,
                env={**os.environ, "NATS_NAME": self.name},
            )
        wait_for_port(self.ports["client"], 30)

    def kill(self) -> None:
        """End the server without a shutdown, as a power failure or the OOM killer does."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGKILL)
            self.process.wait()

    def is_healthy(self) -> bool:
        """Return whether the server's own check passes: its streams are there and current."""
        try:
            return bool(self.read_page("healthz")["status"] == "ok")
        except OSError:
            return False

    def wait_until_healthy(self, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.is_healthy():
            assert time.monotonic() < deadline, f"{self.name} is not healthy: {self.folder}/log"
            time.sleep(0.1)

    def read_page(self, page: str) -> dict[str, Any]:
        """Return a page of the server's monitoring, such as `jsz`."""
        url = f"http://127.0.0.1:{self.ports['http']}/{page}"
        with urllib.request.urlopen(url, timeout=2) as answer:
            content: dict[str, Any] = json.load(answer)
        return content


class Cluster:
    """A hub of three servers with the configuration of deploy/fleet/hub.conf."""

    def __init__(self, folder: Path) -> None:
        self._ports = {
            name: {kind: free_port() for kind in ("client", "http", "route", "leaf")}
            for name in NAMES
        }
        self.servers = [
            Server(name, folder / name, self._configuration(folder, name), **self._ports[name])
            for name in NAMES
        ]

    @property
    def urls(self) -> tuple[str, ...]:
        return tuple(server.url for server in self.servers)

    def _configuration(self, folder: Path, name: str) -> str:
        text = _file("hub.conf", self._ports[name], folder / name)
        for peer, ports in self._ports.items():
            text = text.replace(f"{peer}:6222", f"127.0.0.1:{ports['route']}")
        return text

    def start(self) -> None:
        for server in self.servers:
            server.start()
        for server in self.servers:
            server.wait_until_healthy()

    def kill(self) -> None:
        for server in self.servers:
            server.kill()

    def leaf(self, name: str, folder: Path) -> Server:
        """Return the server of a site, with the configuration of deploy/fleet/leaf.conf."""
        ports = {kind: free_port() for kind in ("client", "http")}
        text = _file("leaf.conf", ports, folder).replace("site-a", name)
        for hub, hub_ports in self._ports.items():
            text = text.replace(f"{hub}:7422", f"127.0.0.1:{hub_ports['leaf']}")
        return Server(name, folder, text, **ports)


def _file(name: str, ports: dict[str, int], folder: Path) -> str:
    """Return a configuration of deploy/fleet with this machine's addresses and a test's folder."""
    text = (DEPLOY / name).read_text()
    secrets = (DEPLOY / name.replace(".conf", ".secrets.example")).read_text()
    text = text.replace("include secrets.conf", secrets)
    text = text.replace("store_dir: /data", f"store_dir: {json.dumps(str(folder / 'data'))}")
    for kind, listens in (
        ("client", "0.0.0.0:4222"),
        ("http", "127.0.0.1:8222"),
        ("route", "0.0.0.0:6222"),
        ("leaf", "0.0.0.0:7422"),
    ):
        if kind in ports:
            text = text.replace(listens, f"127.0.0.1:{ports[kind]}")
    return text
