"""A scripted Docker Engine: on command it forgets, refuses, goes silent and cuts its stream.

It answers what the collector asks of a real one, in the same form, over a Unix or a TCP socket.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

HISTORY_EVENTS = 256


class FakeEngine:
    """One engine; `emit` makes an event happen."""

    def __init__(self) -> None:
        self.history: deque[bytes] = deque(maxlen=HISTORY_EVENTS)
        self.containers: dict[str, dict[str, Any]] = {}
        """By id, as an inspection answers."""
        self.images: dict[str, list[str]] = {}
        """The tags by image id."""
        self.refusals: dict[str, int] = {}
        """The HTTP status to answer with, by the end of the path."""
        self.requests: list[str] = []
        """The paths of all requests."""
        self.is_silent = False
        """True for streams that stay open and bring nothing."""
        self.on_follow: Callable[[], object] = lambda: None
        """Called when a stream is asked for, before it begins."""
        self.streams: set[asyncio.StreamWriter] = set()
        self.address = ""
        self._server: asyncio.Server | None = None

    async def listen(self, path: Path) -> None:
        """Accept requests on a Unix socket."""
        self._server = await asyncio.start_unix_server(self._serve, path)
        self.address = f"unix://{path}"

    async def listen_tcp(self, context: ssl.SSLContext | None = None) -> None:
        """Accept requests on a port of this machine."""
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, ssl=context)
        self.address = f"tcp://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"

    def close(self) -> None:
        """Remove the socket and cut the streams."""
        self.cut()
        if self._server is not None:
            self._server.close()
        if self.address.startswith("unix://"):
            Path(self.address.removeprefix("unix://")).unlink(missing_ok=True)

    def restart(self) -> None:
        """Forget every event and cut every stream, as a new process does."""
        self.history.clear()
        self.cut()

    def cut(self) -> None:
        """Cut every stream in the middle."""
        for writer in self.streams:
            writer.transport.abort()
        self.streams.clear()

    def emit(
        self,
        action: str,
        identifier: str = "c1",
        kind: str = "container",
        moment: int = 0,
        **attributes: str,
    ) -> bytes:
        """Make an event happen and send it on every stream."""
        defaults = {"image": "nginx", "name": "web"} if kind == "container" else {}
        line = message(kind, action, identifier, defaults | attributes, moment)
        self.history.append(line)
        if not self.is_silent:
            self.send(line + b"\n")
        return line

    def send(self, text: bytes) -> None:
        """Send bytes on every stream, as one HTTP chunk."""
        for writer in self.streams:
            writer.write(b"%x\r\n%s\r\n" % (len(text), text))

    def run(self, identifier: str, labels: dict[str, str] | None = None, **state: Any) -> None:
        """Let a container exist; `state` is the state in its inspection."""
        now = iso(time.time_ns())
        self.containers[identifier] = {
            "Id": identifier,
            "Name": "/web",
            "Created": now,
            "Config": {"Image": "nginx", "Labels": labels or {}},
            "State": {"Status": "running", "StartedAt": now, "FinishedAt": "0001-01-01T00:00:00Z"}
            | state,
        }

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._answer(reader, writer):
                await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass  # The collector hung up.
        finally:
            self.streams.discard(writer)
            writer.close()

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = await reader.readuntil(b"\r\n\r\n")
        url = urlsplit(head.split(b" ")[1].decode())
        path = url.path.removeprefix("/v1.41")
        self.requests.append(path)
        for end, status in self.refusals.items():
            if path.endswith(end):
                return _send(writer, status, {"message": f"refused with {status}"})
        if path == "/events":
            writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n")
            if "until" not in parse_qs(url.query):
                self.on_follow()
            past = b"".join(line + b"\n" for line in self.history)
            if past:
                writer.write(b"%x\r\n%s\r\n" % (len(past), past))
            if "until" in parse_qs(url.query):
                writer.write(b"0\r\n\r\n")
                return True
            self.streams.add(writer)
            await reader.read()
            return False
        document = self._document(path)
        if document is None:
            return _send(writer, 404, {})
        return _send(writer, 200, document)

    def _document(self, path: str) -> Any:
        match path.strip("/").split("/"):
            case ["version"]:
                return {"Version": "20.10.0", "ApiVersion": "1.41", "MinAPIVersion": "1.12"}
            case ["containers", "json"]:
                return [
                    {
                        "Id": container["Id"],
                        "Names": [container["Name"]],
                        "Created": 1,
                        "Image": container["Config"]["Image"],
                        "Labels": container["Config"]["Labels"],
                        "State": container["State"]["Status"],
                    }
                    for container in self.containers.values()
                ]
            case ["containers", identifier, "json"]:
                return self.containers.get(identifier)
            case ["images", "json"]:
                return [{"Id": image, "RepoTags": tags} for image, tags in self.images.items()]
            case ["images", image, "json"] if image in self.images:
                return {"Id": image, "RepoTags": self.images[image]}
        return None


def message(
    kind: str, action: str, identifier: str, attributes: dict[str, str], moment: int = 0
) -> bytes:
    """Return a line of the event stream; `moment` is in nanoseconds since the epoch, 0 for now."""
    moment = moment or time.time_ns()
    return json.dumps(
        {
            "Type": kind,
            "Action": action,
            "Actor": {"ID": identifier, "Attributes": attributes},
            "scope": "local",
            "time": moment // 10**9,
            "timeNano": moment,
        }
    ).encode()


def _send(writer: asyncio.StreamWriter, status: int, document: Any) -> bool:
    body = json.dumps(document).encode()
    writer.write(b"HTTP/1.1 %d Status\r\nContent-Length: %d\r\n\r\n%s" % (status, len(body), body))
    return True


def iso(moment: int) -> str:
    """Return a time in nanoseconds since the epoch as an inspection spells it."""
    seconds, nanoseconds = divmod(moment, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"
