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
from sematext_agent.forwarder.destination import Answer
from sematext_agent.forwarder.host_facts import HostFactsCache
from sematext_agent.forwarder.pipeline import Pipeline
from sematext_agent.forwarder.sematext import Sematext, judge
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.shared.bus import BucketEntry, Bus, Message
from sematext_agent.shared.bus.client import TolerantClient
from sematext_agent.shared.health import Health
from sematext_agent.shared.logs import escape
from sematext_agent.shared.overview import Overview, decode_report
from sematext_agent.shared.service import Runtime

_CONTROL_LINE_BYTES_MAX = 4096
"""The broker closes the connection on which a longer one comes (`max_control_line`)."""
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
    disturbed_at = 0.0
    buffered = ()

    def expects_redelivery(self, age_seconds: float) -> bool:
        return False

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
    facts, posts, tasks = HostFactsCache(at.bus), _Posts(), _Tasks()
    puller: Any = _NoPuller()
    destination = Sematext(at.settings, posts)  # type: ignore[arg-type]
    pipeline = Pipeline(at, puller, facts, destination, tasks)  # type: ignore[arg-type]
    pipeline.intake.receive(message, puller)
    while not facts._stale_keys.empty():
        await facts._read(facts._stale_keys.get_nowait())
    for task in tasks.started:
        await task
    assert len(posts.documents) + len(at.bus.published) == 1
    for document in posts.documents:
        assert {"timestamp", "type", "title", "message", "severity"} <= set(document)


def event(data: bytes) -> None:
    """Deliver a payload on `events.>`, and show it in a tap and as a dead letter."""
    message = Message("events.a", data, {}, 7, 1, 0, 0, _DELIVERED)
    asyncio.run(ship(message))
    assert tap.format_message_line(message).isprintable()
    assert tap.format_raw(message).isprintable()


def message(data: bytes) -> None:
    """Receive a message of subject, reply, header and, after a line `---`, payload."""
    subject, _, rest = data.partition(b"\n")
    reply, _, rest = rest.partition(b"\n")
    header, _, payload = rest.partition(b"\n---\n")
    # The broker lets everything else stand in a subject.
    if set(subject + reply) & set(b" \t\r\n") or not subject:
        return
    asyncio.run(_receive(subject, reply or _DELIVERED.encode(), header, payload))


async def _receive(subject: bytes, reply: bytes, header: bytes, payload: bytes) -> None:
    client = TolerantClient()
    bus = Bus(client)
    puller = bus.create_puller("EVENTS", "forwarder", 16)
    client._subs[1] = subscription = Subscription(client, 1, "events.>")
    sizes = (len(header), len(header) + len(payload)) if header else (len(payload),)
    line = b" ".join([b"HMSG" if header else b"MSG", subject, b"1", reply])
    line += b"".join(b" %d" % size for size in sizes)
    await Parser(client).parse(line + b"\r\n" + header + payload + b"\r\n")
    await puller._on_message(subscription._pending_queue.get_nowait())
    bus._publisher.on_answer(subject, payload, header)
    for delivered in puller._buffer:
        await ship(delivered)
        assert tap.format_message_line(delivered).isprintable()


def control(data: bytes) -> None:
    """Handle a status of the server on a request for messages."""

    async def receive() -> None:
        client = TolerantClient()
        puller = Bus(client).create_puller("EVENTS", "forwarder", 16)
        puller._outstanding = 16
        puller._on_control(await client._process_headers(data) or {})
        assert 0 <= puller._outstanding <= 16

    asyncio.run(receive())


def host_facts(data: bytes) -> None:
    """Read a value of the bucket of hosts."""

    async def read() -> None:
        facts = HostFactsCache(runtime(ForwarderSettings(), data).bus)
        await facts._read("web-01")

    asyncio.run(read())


def answer(data: bytes) -> None:
    """Judge an answer of the receiver with this body."""
    for code in (0, 200, 400, 401, 429, 503):
        judgement = judge(Answer(code, data.decode(errors="replace")))
        assert "\n" not in judgement.detail


def report(data: bytes) -> None:
    """Show an answer on `agent.status`."""
    report = decode_report(data)
    if report is not None:
        lines = status.format_overview(Overview(connected=True, now=0.0, reports=[report]))
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
