"""A real Docker Engine of a test's own, that may be restarted, pruned and made a swarm of.

It has its own data, socket, containerd and network namespace. In the machine's own namespace an
engine without a bridge removes `docker0`, which is the machine's engine's, and leaves bridges and
routes behind. `missing()` returns why there can be none here.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import io
import itertools
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import tarfile
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import docker

_numbers = itertools.count()
BUSYBOX = Path("/bin/busybox")


def missing() -> str:
    """Return what this machine lacks for an engine, or an empty text."""
    absent = [
        name
        for name in ("dockerd", "containerd", "runc", "ip", "nsenter")
        if shutil.which(name) is None
    ]
    if os.geteuid() != 0:
        absent.append("the rights of root")
    if not BUSYBOX.exists():
        absent.append(str(BUSYBOX))
    return f"a private Docker Engine needs {', '.join(absent)}" if absent else ""


class PrivateEngine:
    """An engine with the image `box:1`: busybox."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.address = f"unix://{folder}/docker.sock"
        self._namespace = f"engine-{os.getpid()}-{next(_numbers)}"
        _ip("netns", "add", self._namespace)
        _ip("-n", self._namespace, "link", "set", "lo", "up")
        self._process: subprocess.Popen[bytes] | None = None
        self.client: docker.DockerClient = None

    @property
    def network(self) -> str:
        """The file of its network namespace."""
        return f"/run/netns/{self._namespace}"

    def start(self) -> None:
        """Start the engine, and wait until it answers."""
        with (self.folder / "dockerd.log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    "nsenter",
                    f"--net={self.network}",
                    "dockerd",
                    "-H",
                    self.address,
                    "--data-root",
                    self.folder / "data",
                    "--exec-root",
                    self.folder / "exec",
                    "--pidfile",
                    self.folder / "pid",
                    "--config-file",
                    self.folder / "daemon.json",
                    "--bridge",
                    "none",
                    "--iptables=false",
                    "--ip-forward=false",
                ],
                stdout=log,
                stderr=log,
            )
        deadline = time.monotonic() + 60
        while not self._answers():
            assert time.monotonic() < deadline, "the engine does not answer: see its dockerd.log"
            assert self._process.poll() is None, "the engine ended: see its dockerd.log"
            time.sleep(0.05)
        self.client = docker.DockerClient(self.address, version="auto", timeout=60)

    def _answers(self) -> bool:
        # Not asked through the SDK, which leaves the socket of a failed attempt open.
        with socket.socket(socket.AF_UNIX) as knock, contextlib.suppress(OSError):
            knock.connect(self.address.removeprefix("unix://"))
            knock.sendall(b"GET /_ping HTTP/1.0\r\n\r\n")
            return knock.recv(64).startswith(b"HTTP/1.0 200")
        return False

    def import_image(self) -> None:
        """Make the image `box:1`."""
        data = io.BytesIO()
        with tarfile.open(fileobj=data, mode="w") as tar:
            tar.add(BUSYBOX, "bin/busybox")
            for name in ("sh", "sleep", "echo", "tail", "true", "false", "test", "cat", "touch"):
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                tar.addfile(link)
            for name in ("tmp", "d"):
                folder = tarfile.TarInfo(name)
                folder.type, folder.mode = tarfile.DIRTYPE, 0o777
                tar.addfile(folder)
        self.client.api.import_image_from_data(data.getvalue(), repository="box", tag="1")

    def stop(self, number: signal.Signals = signal.SIGTERM) -> None:
        """Stop the engine; its containers live on where live-restore is set."""
        if self.client is not None:
            self.client.close()
        if self._process is not None and self._process.poll() is None:
            containerd = int((self.folder / "exec/containerd/containerd.pid").read_text())
            self._process.send_signal(number)
            self._process.wait(30)
            # It dies with the engine, a moment later; the next engine would take it for alive.
            deadline = time.monotonic() + 10
            while Path(f"/proc/{containerd}").exists() and time.monotonic() < deadline:
                time.sleep(0.01)

    def reload(self) -> None:
        """Make the engine read its configuration again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def destroy(self) -> None:
        """Stop the engine, and end everything that it left running or mounted."""
        self.stop()
        _ip("netns", "delete", self._namespace)
        # Its own containerd, and the shims of containers that outlived the engine.
        for process in _processes_naming(str(self.folder)):
            os.kill(process, signal.SIGKILL)
        mounts = Path("/proc/self/mounts").read_text()
        for mount in sorted(re.findall(rf"\S+ ({re.escape(str(self.folder))}\S*)", mounts))[::-1]:
            subprocess.run(["umount", "-l", mount], check=False, capture_output=True)


class EventsOracle:
    """The output of `docker events`, the engine's own client."""

    def __init__(self, engine: PrivateEngine) -> None:
        self._path = engine.folder / "oracle"
        command = ["docker", "-H", engine.address, "events", "--format", "{{json .}}"]
        with self._path.open("wb") as out:
            self._process = subprocess.Popen(command, stdout=out, stderr=subprocess.DEVNULL)
        # It says nothing when it is ready, so it is made to print something.
        while not self.lines():
            engine.client.images.get("box:1").tag("oracle", "ready")
            time.sleep(0.02)

    def __enter__(self) -> EventsOracle:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.wait()

    def lines(self) -> list[dict[str, Any]]:
        """Return every event printed so far."""
        return [json.loads(line) for line in self._path.read_bytes().split(b"\n")[:-1]]


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)


def _processes_naming(text: str) -> list[int]:
    processes = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                command = (entry / "cmdline").read_bytes().decode(errors="replace")
            except OSError:
                continue  # It has ended.
            if text in command and ("containerd" in command or "dockerd" in command):
                processes.append(int(entry.name))
    return processes


class ImageRegistry:
    """An image registry that accepts pushes and serves pulls (OCI distribution), in memory."""

    def __init__(self, engine: PrivateEngine) -> None:
        with ThreadPoolExecutor(1) as thread:
            self._server = thread.submit(_listen_in, engine.network).result()
        self.address = f"127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def _listen_in(network: str) -> ThreadingHTTPServer:
    """A server on the loopback of a network namespace, which the calling thread enters for good."""
    with Path(network).open() as namespace:
        if ctypes.CDLL(None, use_errno=True).setns(namespace.fileno(), 0) != 0:
            raise OSError(ctypes.get_errno(), f"cannot enter {network}")
    return ThreadingHTTPServer(("127.0.0.1", 0), _ImageRegistryHandler)


class _ImageRegistryHandler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    blobs: dict[str, bytes] = {}  # noqa: RUF012 - one registry a process
    manifests: dict[str, tuple[str, bytes]] = {}  # noqa: RUF012

    def log_message(self, *_: object) -> None:
        pass

    def do_GET(self) -> None:
        name = self.path.rsplit("/", 1)[1]
        if "/manifests/" in self.path and name in self.manifests:
            media_type, body = self.manifests[name]
            self._reply(200, body, media_type)
        elif "/blobs/" in self.path and name in self.blobs:
            self._reply(200, self.blobs[name], "application/octet-stream")
        else:
            self._reply(200 if self.path == "/v2/" else 404, b"{}", "application/json")

    do_HEAD = do_GET  # noqa: N815 - as http.server wants it

    def do_POST(self) -> None:
        location = self.path.rstrip("/") + "/1"
        self._reply(202, b"", "", ("Location", location), ("Docker-Upload-UUID", "1"))

    def do_PATCH(self) -> None:
        self.blobs["upload"] = body = self._body()
        received = ("Range", f"0-{len(body) - 1}")
        self._reply(202, b"", "", ("Location", self.path), ("Docker-Upload-UUID", "1"), received)

    def do_PUT(self) -> None:
        body = self._body()
        if "/manifests/" in self.path:
            name = self.path.rsplit("/", 1)[1]
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            entry = self.headers["Content-Type"] or json.loads(body)["mediaType"], body
            self.manifests[name] = self.manifests[digest] = entry
        else:
            digest = self.path.rpartition("digest=")[2].replace("%3A", ":")
            self.blobs[digest] = self.blobs.pop("upload", b"") + body
        self._reply(201, b"", "", ("Docker-Content-Digest", digest))

    def _body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))
        pieces = []
        while size := int(self.rfile.readline(), 16):
            pieces.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(pieces)

    def _reply(self, status: int, body: bytes, kind: str, *headers: tuple[str, str]) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        if kind:
            self.send_header("Content-Type", kind)
            digest = f"sha256:{hashlib.sha256(body).hexdigest()}"
            self.send_header("Docker-Content-Digest", digest)
        for name, value in headers:
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)
