"""Text of a source that would break a line, colour it, reverse it or move the cursor.

Every output has whole lines of printable characters, and no line that the text began.
"""

from __future__ import annotations

import asyncio
import io
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator
from typing import Any

import msgspec
import pytest
from broker import NatsServer
from commands import Start

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

FORGED = "FORGED"
BREAKS = ("\n", "\r\n", "\x0b", "\x0c", "\x1c", "\x85", "\u2028", "\u2029")
HOSTILE = (
    "".join(f"x{line_break}{FORGED}" for line_break in BREAKS)
    + "\x1b[2J\x1b]0;t\x07\x9b31m\x00\x08\x7f\u202e\u2066\u200b\u200f\ufeff\U000e0041 y"
)


def hostile_value(kind: Any) -> Any:
    """Return a value of a field's type, hostile wherever it is text."""
    match kind:
        case msgspec.inspect.StrType():
            return HOSTILE
        case msgspec.inspect.DictType():
            keys = ("name", "image", "exitCode", "signal", "container", "oldName", HOSTILE)
            return dict.fromkeys(keys, HOSTILE)
        case msgspec.inspect.UnionType():
            return hostile_value(kind.types[0])
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType() | msgspec.inspect.FloatType():
            return 1
        case msgspec.inspect.StructType():
            return {f.encode_name: hostile_value(f.type) for f in kind.fields}
        case msgspec.inspect.ListType() | msgspec.inspect.VarTupleType():
            return [hostile_value(kind.item_type)]
    return None


def hostile_event(body_type: type[Body]) -> Event:
    kind = msgspec.inspect.type_info(body_type)
    assert isinstance(kind, msgspec.inspect.StructType)
    body = msgspec.convert(hostile_value(kind) | {kind.tag_field: kind.tag}, body_type)
    return Event(
        id=body_type.__name__, time=format_rfc3339(0), origin=HOSTILE, agent="1", body=body
    )


BODIES: tuple[type[Body], ...] = (
    DockerEvent,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    AgentLifecycle,
    Gap,
)
EVENTS = [hostile_event(body) for body in BODIES]


def assert_harmless(text: str) -> None:
    """Assert that no control character is left, and that no line begins where a text broke."""
    lines = text.removesuffix("\n").split("\n")
    assert [line for line in lines if not line.isprintable()] == []
    assert [line for line in lines if line.lstrip().startswith(FORGED)] == []


@pytest.fixture
async def hostile_streams(connection: Bus) -> AsyncIterator[Bus]:
    """Store every kind of hostile event and dead letter, beside a service that is not ready."""
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
        report = hostile_health().report()
        changed = msgspec.structs.replace(report, service=HOSTILE, version=HOSTILE)
        await connection.reply(message, msgspec.json.encode(changed))

    end = await connection.subscribe(STATUS_SUBJECT, answer)
    yield connection
    await end()


def hostile_health(origin: str = HOSTILE) -> Health:
    """Return the health of a service whose conditions and errors have hostile text."""
    health = Health("docker", origin)
    health.set_condition("source", False, HOSTILE)
    health.record_error(HOSTILE)
    return health


@pytest.mark.parametrize(
    "command", ["status", "dead list", *(f"dead show {n + 1}" for n in range(len(EVENTS) + 1))]
)
async def test_the_output_of_a_command_is_harmless(
    command: str, hostile_streams: Bus, nats_server: NatsServer
) -> None:
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
    assert_harmless(out.decode())


@pytest.mark.parametrize("form", [(), ("--json",)])
async def test_the_output_of_a_tap_is_harmless(
    form: tuple[str, ...], hostile_streams: Bus, nats_server: NatsServer, start: Start
) -> None:
    tap = await start("-m", "sematext_agent.agentctl", "tap", *form, "--nats", nats_server.url)
    await tap.shows(FORGED, times=len(EVENTS))
    await hostile_streams.publish("events.docker.last", b'"last"', "last")
    await tap.shows("last")
    assert_harmless("\n".join(tap.out))
    if form:  # escaping does not change the JSON
        assert [json.loads(line) for line in tap.out[: len(EVENTS)]] == [
            json.loads(encode(event)) for event in EVENTS
        ]


def test_the_screen_of_the_whole_agent_is_harmless() -> None:
    out = io.StringIO()
    screen = Screen(out)
    screen.show(HOSTILE)
    screen.close()
    assert FORGED in out.getvalue()
    assert_harmless(out.getvalue())


async def test_the_http_pages_of_a_service_are_harmless_in_a_terminal() -> None:
    application = build_health_app(hostile_health("web-01"))
    for path in ("/healthz", "/readyz", "/metrics"):
        assert_harmless(text := await get_page(application, path))
        assert (FORGED in text) == (path == "/readyz")  # metrics have no text of a source


async def get_page(application: Any, path: str) -> str:
    """Return the body that an ASGI application answers with."""
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
def test_the_line_for_an_unusable_setting_is_harmless(setting: str) -> None:
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
    assert_harmless(done.stderr.decode())
