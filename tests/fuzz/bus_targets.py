"""Targets on the bus: from the bytes of a message to the document, the dead letter, the tap."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any

import msgspec
from nats.aio.subscription import Subscription
from nats.protocol.parser import Parser

from sematext_agent.agentctl import status, tap
from sematext_agent.forwarder.facts import Facts
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.ship import Shipper
from sematext_agent.forwarder.streams import stream_configs
from sematext_agent.forwarder.transport import Answer
from sematext_agent.forwarder.verdict import in_words, judge
from sematext_agent.shared.bus import BucketEntry, Bus, Message
from sematext_agent.shared.bus.client import TolerantClient
from sematext_agent.shared.bus.pull import Puller
from sematext_agent.shared.health import Health
from sematext_agent.shared.logs import escape
from sematext_agent.shared.service import Runtime

_CONTROL_LINE_BYTES_MAX = 4096
"""The broker closes a connection with a longer one (`max_control_line`)."""
_DELIVERED = "$JS.ACK.EVENTS.forwarder.1.7.7.1700000000000000000.0"


class StrictBus:
    """A bus that asserts on every call what a real broker accepts."""

    is_connected = True

    def __init__(self, stored: bytes | None = None) -> None:
        self._stored = stored
        self.published: list[str] = []

    async def publish(
        self, subject: str, payload: bytes, message_id: str, headers: dict[str, str] | None = None
    ) -> None:
        lines = {**(headers or {}), "Nats-Msg-Id": message_id}
        text = "".join(f"{name}: {value}\r\n" for name, value in lines.items())
        assert text.isascii()
        assert escape(text.replace("\r\n", "")) == text.replace("\r\n", "")
        assert len(subject) + 200 < _CONTROL_LINE_BYTES_MAX
        assert not set(subject) & set(" \t\r\n*>\0")
        assert all(subject.split("."))
        (dead,) = (c for c in stream_configs(ForwarderSettings()) if c["name"] == "DEAD")
        assert len("NATS/1.0\r\n" + text + "\r\n") + len(payload) <= dead["max_msg_size"]
        self.published.append(subject)

    def new_inbox(self) -> str:
        return "_INBOX.a"

    async def get(self, bucket: str, key: str, domain: str = "") -> bytes | None:
        return (await self.get_entry(bucket, key)).value

    async def get_entry(self, bucket: str, key: str) -> BucketEntry:
        assert len(key) + 200 < _CONTROL_LINE_BYTES_MAX
        return BucketEntry(self._stored, 0)

    async def acknowledge(self, message: Message) -> None:
        pass


class _Posts:
    """A transport that delivers every document."""

    def __init__(self) -> None:
        self.documents: list[dict[str, Any]] = []

    def post(self, document: bytes, on_answer: Any) -> None:
        self.documents.append(msgspec.json.decode(document, type=dict))
        on_answer(Answer(200))


class _Tasks:
    def __init__(self) -> None:
        self.started: list[asyncio.Task[None]] = []

    def create_task(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        self.started.append(asyncio.create_task(work))
        return self.started[-1]


class _NoPuller:
    expects_redelivery = False

    def resize(self, window: int, bytes_max: int = 0) -> None:
        pass


def runtime(settings: Any, stored: bytes | None = None) -> Any:
    """Return a runtime without a process, whose bus has `stored` under every key."""
    name = type(settings).__name__.removesuffix("Settings").lower()
    strict: Any = StrictBus(stored)
    return Runtime(settings, Health(name, "web-01"), strict, asyncio.Event())


async def ship(message: Message) -> None:
    """Run a message through the forwarder: it becomes one document or one dead letter."""
    at = runtime(ForwarderSettings())
    facts, posts, tasks = Facts(at.bus), _Posts(), _Tasks()
    puller: Any = _NoPuller()
    shipper = Shipper(at, puller, facts, posts, tasks)  # type: ignore[arg-type]
    shipper.take(message, puller)
    while not facts._wanted.empty():
        await facts._read(facts._wanted.get_nowait())
    for task in tasks.started:
        await task
    assert len(posts.documents) + len(at.bus.published) == 1
    for document in posts.documents:
        assert {"timestamp", "type", "title", "message", "severity"} <= set(document)


def event(data: bytes) -> None:
    """Deliver a payload on `events.>`, and show it in a tap and as a dead letter."""
    message = Message("events.a", data, {}, 7, 1, 0, 0, _DELIVERED)
    asyncio.run(ship(message))
    assert tap.in_words(message).isprintable()
    assert tap.raw(message).isprintable()


def message(data: bytes) -> None:
    """Receive a message of subject, reply, header and, after a line `---`, payload."""
    subject, _, rest = data.partition(b"\n")
    reply, _, rest = rest.partition(b"\n")
    header, _, payload = rest.partition(b"\n---\n")
    # The broker allows everything else in a subject.
    if set(subject + reply) & set(b" \t\r\n") or not subject:
        return
    asyncio.run(_receive(subject, reply or _DELIVERED.encode(), header, payload))


async def _receive(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
    client = TolerantClient()
    bus = Bus(client)
    puller = Puller(client, "EVENTS", "forwarder", 16)
    client._subs[1] = subscription = Subscription(client, 1, "events.>")
    sizes = (len(header), len(header) + len(payload)) if header else (len(payload),)
    line = b" ".join([b"HMSG" if header else b"MSG", subject, b"1", reply])
    line += b"".join(b" %d" % size for size in sizes)
    await Parser(client).parse(line + b"\r\n" + header + payload + b"\r\n")
    await puller._on_message(subscription._pending_queue.get_nowait())
    bus._on_answer(subject, payload, header)
    for delivered in puller._here:
        await ship(delivered)
        assert tap.in_words(delivered).isprintable()


def control(data: bytes) -> None:
    """Handle a status of the server on a request for messages."""

    async def receive() -> None:
        client = TolerantClient()
        puller = Puller(client, "EVENTS", "forwarder", 16)
        puller._wanted = 16
        puller._on_control(await client._process_headers(data) or {})
        assert 0 <= puller._wanted <= 16

    asyncio.run(receive())


def host_facts(data: bytes) -> None:
    """Read a value of the bucket of hosts."""

    async def read() -> None:
        facts = Facts(runtime(ForwarderSettings(), data).bus)
        await facts._read("web-01")

    asyncio.run(read())


def answer(data: bytes) -> None:
    """Judge an answer of the receiver with this body."""
    for code in (0, 200, 400, 401, 429, 503):
        received = Answer(code, data.decode(errors="replace"))
        judge(received)
        assert "\n" not in in_words(received)


def report(data: bytes) -> None:
    """Show an answer on `agent.status`."""
    decoded = status._report(data)
    if decoded is not None:
        lines = [*status._parts([decoded]), (status._last_error(decoded), "")]
        assert all(escape(line).isprintable() for line, _ in lines)


def nanoseconds_of(data: bytes) -> None:
    """Parse a time and format it again."""
    from sematext_agent.shared.events import format_rfc3339, parse_rfc3339

    with contextlib.suppress(ValueError):
        format_rfc3339(parse_rfc3339(data.decode(errors="replace")))


TARGETS = {
    "event": event,
    "message": message,
    "control": control,
    "host_facts": host_facts,
    "answer": answer,
    "report": report,
    "time": nanoseconds_of,
}
