"""Versions side by side: the data of older ones is readable, and newer ones lose nothing.

`golden/<version>/` has the data of that version, with every field set. It never changes; a later
version adds its own directory.
"""

from __future__ import annotations

import asyncio
import copy
import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
from fuzz.bus_targets import ship
from upgrade import schema

from sematext_agent.agentctl import status, tap
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.forwarder.documents import build_document
from sematext_agent.host_collector.kernel import cursor
from sematext_agent.host_collector.packages import inventory_store
from sematext_agent.host_collector.packages.inventory import Package, ScanRoot
from sematext_agent.kubernetes_collector.cursor import WatchCursor
from sematext_agent.lifecycle_collector.translate import RunRecord
from sematext_agent.lifecycle_collector.watch import decode_record
from sematext_agent.shared.bus import Message
from sematext_agent.shared.events import HostFacts, NewerEventError, decode, encode, parse_rfc3339
from sematext_agent.shared.overview import Overview, decode_report
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    subject_of,
)

GOLDEN = Path(__file__).parent / "golden"
VERSIONS = sorted(GOLDEN.iterdir())
EVENTS = sorted(GOLDEN.glob("*/events/*.json"))
every_version = pytest.mark.parametrize("version", VERSIONS, ids=lambda path: path.name)
every_event = pytest.mark.parametrize("path", EVENTS, ids=lambda path: path.stem)


def holds(now: Any, before: Any) -> bool:
    """Return whether `now` has every value of `before`."""
    if isinstance(before, dict):
        return all(key in now and holds(now[key], value) for key, value in before.items())
    return bool(now == before)


@every_event
def test_an_event_of_an_older_version_keeps_every_field(path: Path) -> None:
    event = decode(path.read_bytes())
    assert holds(json.loads(encode(event)), json.loads(path.read_bytes()))
    assert subject_of(event).startswith("events.")
    assert build_document(event, None)["event.id"] == event.id


@every_version
def test_facts_report_and_dead_letter_headers_of_an_older_version_are_readable(
    version: Path,
) -> None:
    written = (version / "host_facts.json").read_bytes()
    facts = msgspec.json.decode(written, type=HostFacts)
    assert holds(json.loads(msgspec.json.encode(facts)), json.loads(written))
    written = (version / "report.json").read_bytes()
    assert holds(json.loads(msgspec.json.encode(decode_report(written))), json.loads(written))
    headers = json.loads((version / "dead_letter_headers.json").read_bytes())
    assert {DEAD_REASON_HEADER, DEAD_STATUS_HEADER, DEAD_SEQUENCE_HEADER, DEAD_TIME_HEADER} <= set(
        headers
    )
    assert parse_rfc3339(headers[DEAD_TIME_HEADER])


@every_version
def test_the_cursors_of_an_older_version_are_readable(version: Path) -> None:
    def stored(name: str) -> bytes:
        return (version / "cursors" / name).read_bytes()

    docker = EngineState("unix:///var/run/docker.sock", stored("docker.json"))
    assert not docker.is_new
    assert docker.has_read
    assert docker.containers["c1"].running
    assert (docker.latest_ns, docker.unreconciled) == (1795423877628168185, True)
    assert docker.images == {"sha256:aa": ("nginx:1",)}
    kernel = cursor.decode_cursor(stored("oom.json"))
    assert kernel is not None
    assert (kernel.boot, kernel.sequence, kernel.kills) == ("b", 5, 2)
    packages = inventory_store.InventoryStore(
        inventory_store._index.decode(stored("packages.json"))
    )
    packages.restore({0: stored("packages-0.msgpack")})
    assert packages.packages(ScanRoot("deb", "var/lib/dpkg", "c1"))[0] == Package(
        "curl", "1", "amd64", 5
    )
    assert packages.baselines == {"", "c1"}
    assert msgspec.json.decode(stored("kubernetes.json"), type=WatchCursor) == WatchCursor(
        7, 1795423877.5
    )
    assert decode_record(stored("lifecycle.json")) == RunRecord("r", "i", 1, 2, 3)


def of_a_newer_agent(path: Path, **body: Any) -> Message:
    """Return the event as a newer agent may write it: with more fields, and `body` in its body."""
    event = json.loads(path.read_bytes())
    event["agent"], event["later"] = "99.0", {"a": [1]}
    event["body"] |= {"later": [1], **body}
    data = msgspec.json.encode(event)
    return Message("events.a", data, {}, 7, 1, 0, 0, "$JS.ACK.EVENTS.forwarder.1.7.7.1.0")


@every_event
def test_fields_of_a_newer_version_are_skipped(path: Path) -> None:
    message = of_a_newer_agent(path)
    assert decode(message.data).body == decode(path.read_bytes()).body
    assert "newer" not in tap.format_message_line(message)
    asyncio.run(ship(message))


@pytest.mark.parametrize(
    ("name", "body"), [("lifecycle", {"event": "volume"}), ("package", {"manager": "apk"})]
)
def test_an_event_of_a_newer_version_is_a_dead_letter_with_advice_to_upgrade(
    name: str, body: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    """It has a tag, or a value, that this version does not have; a replay delivers it later."""
    message = of_a_newer_agent(VERSIONS[0] / f"events/{name}.json", **body)
    with pytest.raises(NewerEventError):
        decode(message.data)
    asyncio.run(ship(message))
    assert "a dead letter: of agent 99.0" in caplog.text
    assert "upgrade this forwarder, then `agentctl dead replay` sends it" in caplog.text
    assert "upgrade agentctl" in tap.format_message_line(message)


def test_a_report_of_a_newer_version_is_shown() -> None:
    report = json.loads((VERSIONS[0] / "report.json").read_bytes()) | {"later": 1}
    decoded = decode_report(msgspec.json.encode(report))
    assert decoded is not None
    overview = Overview(connected=True, now=0.0, reports=[decoded])
    assert "docker" in str(status.format_overview(overview))


def test_the_schema_is_that_of_the_snapshot() -> None:
    """After an addition: `.venv/bin/python tests/upgrade/schema.py`."""
    kept = json.loads(schema.SNAPSHOT.read_text())
    assert schema.problems(kept, schema.current()) == []
    assert kept == schema.current(), "added to: run tests/upgrade/schema.py"


def test_a_removed_renamed_retyped_or_required_field_is_a_problem() -> None:
    kept = schema.current()
    now = copy.deepcopy(kept)
    del now["Gap"]["lost"]
    now["Gap"]["since"] = "int"
    now["Gap"]["missing"] = "int"
    now["package"] = {"tag": "None", "version": "str", "name": "str"} | now["package"]
    assert schema.problems(kept, now) == [
        f"Gap.since was `{kept['Gap']['since']}` and is `int`",
        f"Gap.lost was `{kept['Gap']['lost']}` and is `gone`",
        "Gap.missing is new and has no default",
        "package is written as an array, and its order has changed",
    ]


def test_a_further_value_of_an_enum_is_an_addition() -> None:
    kept = schema.current()
    now = copy.deepcopy(kept)
    now["AgentLifecycle"]["state"] = '{"enum": ["paused", "started", "stopped"]}'
    assert schema.problems(kept, now) == []
    assert schema.problems(now, kept) != []
