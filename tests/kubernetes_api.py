"""A Kubernetes API server scripted by a test: events, leases, and every fault.

It keeps a history as etcd does: revisions, compaction, lists that expire. A test can also take over
the answer to the next list or watch, byte by byte (`next_list`, `next_watch`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, urlsplit

EVENTS = "/api/v1/events"
CLUSTER_UID = "11111111-2222-3333-4444-555555555555"
EXPIRED = {
    "kind": "Status",
    "code": 410,
    "reason": "Expired",
    "message": "too old resource version",
}


def kubelet_event(name: str, **fields: Any) -> dict[str, Any]:
    """Return an event as the kubelet writes it."""
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "kind": "Event",
        "apiVersion": "v1",
        "metadata": {"name": name, "namespace": "default", "uid": f"uid-{name}"},
        "involvedObject": {"kind": "Pod", "namespace": "default", "name": "web", "uid": "pod-1"},
        "reason": "BackOff",
        "message": "Back-off restarting failed container",
        "source": {"component": "kubelet", "host": "node-1"},
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "type": "Warning",
        "eventTime": None,
        "reportingComponent": "kubelet",
        "reportingInstance": "node-1",
    }
    return event | fields


@dataclass
class Exchange:
    """One request, and the means to answer it."""

    method: str
    path: str
    params: dict[str, str]
    headers: dict[str, str]
    body: bytes
    writer: asyncio.StreamWriter
    at: float = field(default_factory=time.monotonic)

    async def head(self, status: int = 200, chunked: bool = True, **headers: str) -> None:
        """Send the first line and the headers of a chunked answer."""
        lines = [f"HTTP/1.1 {status} Whatever", "Content-Type: application/json"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
        lines += ["Transfer-Encoding: chunked"] if chunked else []
        await self.raw("\r\n".join([*lines, "", ""]).encode())

    async def chunk(self, data: bytes) -> None:
        if data:
            await self.raw(b"%x\r\n%s\r\n" % (len(data), data))

    async def frame(self, kind: str, content: dict[str, Any]) -> None:
        """Send a line of a watch."""
        await self.chunk(encode_frame(kind, content))

    async def end(self) -> None:
        """Send the clean end of a chunked answer."""
        await self.raw(b"0\r\n\r\n")

    async def json(self, status: int, content: Any, **headers: str) -> None:
        """Send a whole answer."""
        body = json.dumps(content).encode()
        await self.head(status, chunked=False, Content_Length=str(len(body)), **headers)
        await self.raw(body)

    async def raw(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    def cut(self) -> None:
        """End the connection in the middle of an answer."""
        self.writer.transport.abort()


Answer = Callable[[Exchange], Awaitable[None]]


def encode_frame(kind: str, content: dict[str, Any]) -> bytes:
    return json.dumps({"type": kind, "object": content}, ensure_ascii=False).encode() + b"\n"


def matches_path(event: dict[str, Any], path: str) -> bool:
    """Return whether `event` is among the events at `path`."""
    return path == EVENTS or f"/namespaces/{event['metadata'].get('namespace')}/" in path


def error_answer(status: int, **headers: str) -> Answer:
    """Answers with an error of the API."""

    async def answer(exchange: Exchange) -> None:
        body = {"kind": "Status", "code": status, "message": f"scripted {status}"}
        await exchange.json(status, body, **headers)

    return answer


def watch_answer(*frames: tuple[str, dict[str, Any]], end: bool = True) -> Answer:
    """Answers a watch with these frames, and ends it, or leaves it open in silence."""

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        for kind, content in frames:
            await exchange.frame(kind, content)
        if end:
            await exchange.end()
        else:
            await asyncio.sleep(3600)

    return answer


class ClusterHistory:
    """The events of a cluster and their revisions, as etcd keeps them."""

    def __init__(self) -> None:
        self.revision = 100
        self.compacted = 0
        self.history: list[tuple[int, str, dict[str, Any]]] = []
        self.objects: dict[str, dict[str, Any]] = {}
        self.generation = 0
        """The number of times that all watches were ended."""
        self._changed = asyncio.Event()

    def add(self, name: str, **fields: Any) -> int:
        """Add an event, or the next revision of one; return its revision."""
        kind = "MODIFIED" if name in self.objects else "ADDED"
        event = self.objects.get(name, kubelet_event(name)) | fields
        return self._store(kind, name, event)

    def revision_of(self, name: str) -> int:
        return int(self.objects[name]["metadata"]["resourceVersion"])

    def delete(self, name: str) -> int:
        return self._store("DELETED", name, self.objects[name])

    def _store(self, kind: str, name: str, event: dict[str, Any]) -> int:
        self.revision += 1
        event = event | {"metadata": event["metadata"] | {"resourceVersion": str(self.revision)}}
        self.history.append((self.revision, kind, event))
        self.objects[name] = event
        if kind == "DELETED":
            del self.objects[name]
        self._changed.set()
        self._changed = asyncio.Event()
        return self.revision

    def compact(self) -> None:
        """Forgets all history before now, as etcd does every five minutes."""
        self.compacted = self.revision
        self.history.clear()

    def end_watches(self) -> None:
        """End every watch cleanly, as the server does after the time that was asked of it."""
        self.generation += 1
        self._changed.set()
        self._changed = asyncio.Event()


class ApiServer(ClusterHistory):
    """One cluster. `http://127.0.0.1:port`, or https where it is given a TLS context."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        super().__init__()
        self.tls = tls
        self.cluster_uid = CLUSTER_UID
        self.leases: dict[str, dict[str, Any]] = {}
        self.metadata: dict[str, dict[str, Any]] = {}
        """By path: the metadata of other objects."""
        self.denied: set[str] = set()
        """Paths that are answered with 403."""
        self.tokens: set[str] | None = None
        """The accepted tokens; None: any."""
        self.next_list: deque[Answer] = deque()
        self.next_watch: deque[Answer] = deque()
        self.answer_all: Answer | None = None
        """Answers every request, while it is set."""
        self.requests: list[Exchange] = []
        self.port = 0
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    @property
    def url(self) -> str:
        return f"{'https' if self.tls else 'http'}://127.0.0.1:{self.port}"

    async def start(self) -> None:
        self._server = await asyncio.start_server(
            self._on_connection, "127.0.0.1", self.port, ssl=self.tls
        )
        self.port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """End at once, with all connections, as a killed process does."""
        assert self._server is not None
        self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    def watches(self) -> list[Exchange]:
        return [request for request in self.requests if "watch" in request.params]

    def lists(self) -> list[Exchange]:
        """Return the lists, without the look-ups of the current revision."""
        return [
            request
            for request in self.requests
            if request.path.endswith("/events")
            and "watch" not in request.params
            and request.params.get("limit") != "1"
        ]

    async def _on_connection(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            while (exchange := await read_request(reader, writer)) is not None:
                self.requests.append(exchange)
                await self._answer(exchange)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client went away: that is its right
        except asyncio.CancelledError:
            if self._server is not None and self._server.is_serving():
                raise
        finally:
            self._connections.discard(task)
            writer.transport.abort()

    async def _answer(self, exchange: Exchange) -> None:
        token = exchange.headers.get("authorization", "").removeprefix("Bearer ")
        if self.answer_all is not None:
            await self.answer_all(exchange)
        elif self.tokens is not None and token.removeprefix("bearer ") not in self.tokens:
            await exchange.json(401, {"kind": "Status", "code": 401, "message": "Unauthorized"})
        elif exchange.path in self.denied:
            await error_answer(403)(exchange)
        elif exchange.path in self.metadata:
            await exchange.json(200, {"metadata": self.metadata[exchange.path]})
        elif exchange.path == "/api/v1/namespaces/kube-system":
            await exchange.json(200, {"metadata": {"uid": self.cluster_uid}})
        elif "/leases" in exchange.path:
            await self._lease(exchange)
        elif not exchange.path.endswith("/events"):
            await error_answer(404)(exchange)
        elif "watch" in exchange.params:
            await (self.next_watch.popleft() if self.next_watch else self._watch)(exchange)
        elif exchange.params.get("limit") == "1":
            await self._list(exchange)
        else:
            await (self.next_list.popleft() if self.next_list else self._list)(exchange)

    async def _list(self, exchange: Exchange) -> None:
        limit = int(exchange.params.get("limit", "0")) or 10**9
        at, _, start = exchange.params.get("continue", f"{self.revision}.0").partition(".")
        if int(at) < self.compacted and "continue" in exchange.params:
            await exchange.json(410, EXPIRED)
            return
        items = [
            event for event in list(self.objects.values()) if matches_path(event, exchange.path)
        ]
        first = int(start)
        page = items[first : first + limit]
        token = f"{at}.{first + limit}" if first + limit < len(items) else ""
        await exchange.json(
            200, {"metadata": {"resourceVersion": at, "continue": token}, "items": page}
        )

    async def _watch(self, exchange: Exchange) -> None:
        cursor, generation = int(exchange.params["resourceVersion"]), self.generation
        ends = time.monotonic() + float(exchange.params["timeoutSeconds"])
        await exchange.head()
        while self.generation == generation:
            if cursor < self.compacted:
                await exchange.frame("ERROR", EXPIRED)
                break
            changed = self._changed
            news = [
                entry
                for entry in self.history
                if entry[0] > cursor and matches_path(entry[2], exchange.path)
            ]
            # A cursor in the future stays there: nothing arrives until the cluster has caught up.
            cursor = max(cursor, self.revision)
            if news:
                await exchange.chunk(b"".join(encode_frame(kind, event) for _, kind, event in news))
                continue
            try:
                async with asyncio.timeout(max(0, ends - time.monotonic())):
                    await changed.wait()
            except TimeoutError:
                break
        await exchange.end()

    async def _lease(self, exchange: Exchange) -> None:
        name = exchange.path.rpartition("/")[2]
        if exchange.method == "GET":
            stored = self.leases.get(name)
            await exchange.json(200 if stored else 404, stored or {"code": 404})
            return
        lease = json.loads(exchange.body)
        name = lease["metadata"]["name"]
        before = self.leases.get(name)
        based_on = lease["metadata"].get("resourceVersion")
        exists = before is not None and exchange.method == "POST"
        # As the real one: an update that names no revision replaces whatever is there.
        if exists or (before and based_on and based_on != before["metadata"]["resourceVersion"]):
            await exchange.json(409, {"code": 409, "reason": "Conflict"})
            return
        self.revision += 1
        lease["metadata"]["resourceVersion"] = str(self.revision)
        self.leases[name] = lease
        await exchange.json(200, lease)


async def read_request(
    reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> Exchange | None:
    head = await reader.readuntil(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    method, target, _ = first.split(" ")
    headers = {
        name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)
    }
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    url = urlsplit(target)
    return Exchange(method, url.path, dict(parse_qsl(url.query)), headers, body, writer)


def kubeconfig(path: Path, server: str, **user: Any) -> Path:
    """Write a kubeconfig file for `server`, as JSON, which is YAML too."""
    cluster: dict[str, Any] = {"server": server}
    if "certificate_authority" in user:
        cluster["certificate-authority"] = user.pop("certificate_authority")
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "c", "cluster": cluster}],
        "users": [{"name": "u", "user": user or {"token": "test"}}],
        "contexts": [{"name": "test", "context": {"cluster": "c", "user": "u"}}],
        "current-context": "test",
    }
    path.write_text(json.dumps(config))
    return path


@contextlib.asynccontextmanager
async def api_server(tls: ssl.SSLContext | None = None) -> AsyncIterator[ApiServer]:
    """Run a scripted API server for the length of a test."""
    server = ApiServer(tls)
    await server.start()
    try:
        yield server
    finally:
        await server.stop()
