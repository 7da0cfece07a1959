"""Text of a source that would break a line, colour it, turn it around or move the cursor.

Whatever prints it prints whole lines of printable characters, and none that the text began.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from broker import NatsServer

from sematext_agent.agentctl.screen import Screen
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    encode,
    format_rfc3339,
)
from sematext_agent.shared.health import Health
from sematext_agent.shared.http_server import build_health_app
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_STATUS_HEADER,
    STATUS_SUBJECT,
    dead_subject,
    subject_of,
)

Start = Callable[..., Awaitable[Any]]

FORGED = "FORGED"
BREAKS = ("\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
HOSTILE = (
    "".join(f"x{line_break}{FORGED}" for line_break in BREAKS)
    + "\x1b[2J\x1b]0;t\x07\x9b31m\x00\x08\x7f\u202e\u2066\u200b\u200f\ufeff\U000e0041 y"
)


def of_type(kind: Any) -> Any:
    """A value of a field's type, hostile wherever it is text."""
    match kind:
        case msgspec.inspect.StrType():
            return HOSTILE
        case msgspec.inspect.DictType():
            keys = ("name", "image", "exitCode", "signal", "container", "oldName", HOSTILE)
            return dict.fromkeys(keys, HOSTILE)
        case msgspec.inspect.UnionType():
            return of_type(kind.types[0])
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return 1
        case msgspec.inspect.StructType():
            return {f.encode_name: of_type(f.type) for f in kind.fields}
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return [of_type(kind.item_type)]
    return None


def hostile(body_type: type[Body]) -> Event:
    kind = msgspec.inspect.type_info(body_type)
    assert isinstance(kind, msgspec.inspect.StructType)
    body = msgspec.convert(of_type(kind) | {kind.tag_field: kind.tag}, body_type)
    return Event(
        id=body_type.__name__, time=format_rfc3339(0), origin=HOSTILE, agent="1", body=body
    )


BODIES = (DockerEvent, KubernetesEvent, OutOfMemory, PackageChange, AgentLifecycle, Gap)
EVENTS = [*map(hostile, BODIES)]


def is_whole(text: str) -> None:
    """No control character has come out, and no line begins where a text broke."""
    lines = text.removesuffix("\n").split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.lstrip().startswith(FORGED)] == []


@pytest.fixture
async def told(connection: Bus) -> AsyncIterator[Bus]:
    """Every kind of event in the stream, each also refused; and a part that is unwell."""
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.add_stream(StreamConfig(name="DEAD", subjects=["dead.>"]))
    headers = {DEAD_REASON_HEADER: "\x1b[31m\x9b \u202e", DEAD_STATUS_HEADER: "4\x0b00"}
    for event in EVENTS:
        subject = subject_of(event)
        await connection.publish(subject, encode(event), event.id)
        await connection.publish(dead_subject(subject), encode(event), event.id, headers)
    await connection.publish("events.docker.x", HOSTILE.encode(), "none")
    await connection.publish("dead.docker.x", HOSTILE.encode(), "none", headers)

    async def answer(message: Any) -> None:
        report = unwell().report()
        changed = msgspec.structs.replace(report, service=HOSTILE, version=HOSTILE)
        await connection.reply(message, msgspec.json.encode(changed))

    end = await connection.subscribe(STATUS_SUBJECT, answer)
    yield connection
    await end()


def unwell(origin: str = HOSTILE) -> Health:
    """A service whose source said all that is hostile."""
    health = Health("docker", origin)
    health.set_condition("source", False, HOSTILE)
    health.record_error(HOSTILE)
    return health


@pytest.mark.parametrize(
    "command", ["status", "dead list", *(f"dead show {n + 1}" for n in range(len(EVENTS) + 1))]
)
async def test_what_a_command_prints(command: str, told: Bus, nats_server: NatsServer) -> None:
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "sematext_agent.agentctl",
        *command.split(),
        "--nats",
        nats_server.url,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=os.environ | {"COLUMNS": "100"},
    )
    out, err = await process.communicate()
    assert err == b""
    assert FORGED.encode() in out or command.endswith("7")
    is_whole(out.decode())


@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_what_a_tap_prints(
    form: tuple[str, ...], told: Bus, nats_server: NatsServer, start: Start
) -> None:
    tap = await start("-m", "sematext_agent.agentctl", "tap", *form, "--nats", nats_server.url)
    await tap.shows(FORGED, times=len(EVENTS))
    await told.publish("events.docker.last", b'"last"', "last")
    await tap.shows("last")
    is_whole("\n".join(tap.out))
    if form:  # and it is the same JSON as ever
        assert [json.loads(line) for line in tap.out[: len(EVENTS)]] == [
            json.loads(encode(event)) for event in EVENTS
        ]


def test_what_the_screen_of_the_whole_agent_shows() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.show(HOSTILE)
    screen.close()
    assert FORGED in out.getvalue()
    is_whole(out.getvalue())


async def test_the_pages_of_a_service() -> None:
    """They are for programs; a terminal that shows them is safe too."""
    told = build_health_app(unwell("web-01"))
    for path in ("/healthz", "/readyz", "/metrics"):
        is_whole(text := await page(told, path))
        assert (FORGED in text) == (path == "/readyz")  # metrics repeat no source at all


async def page(application: Any, path: str) -> str:
    """The body that an ASGI application answers with."""
    parts: list[bytes] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        parts.append(message.get("body", b""))

    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "raw_path": path.encode(),
        "headers": [],
        "query_string": b"",
        "http_version": "1.1",
        "scheme": "http",
        "root_path": "",
        "server": ("x", 1),
        "client": ("x", 1),
        "asgi": {"version": "3.0"},
    }
    await application(scope, receive, send)
    return b"".join(parts).decode()


@pytest.mark.parametrize(
    "setting",
    [
        "NATS_URL",
        "LOGGING_LEVEL",
        "API_SERVER_PORT",
        "EVENTS_RECEIVER_URL",
        "INFRA_TOKEN",
        "REGION",
        "TAGS",
        "NATS_PASSWORD_FILE",
        "PROXY_HOST",
        "DRAIN_SECONDS",
    ],
)
def test_the_line_for_a_setting_that_cannot_be_used(setting: str) -> None:
    environ = {setting: HOSTILE.replace("\0", "")}
    done = subprocess.run(
        [sys.executable, "-m", "sematext_agent.forwarder"],
        env=environ,
        capture_output=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 2
    assert len(done.stderr.decode().split("\n")) == 2
    is_whole(done.stderr.decode())
