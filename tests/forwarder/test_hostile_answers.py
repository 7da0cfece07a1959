"""Text that would break a line or move the cursor: in a printed document, and in an answer."""

from __future__ import annotations

import json
import logging

import pytest
from broker import wait_until
from forwarding import Publisher, Start, an_event, dead_letters
from receiver import Receiver, Reply

from sematext_agent.shared import bus
from sematext_agent.shared.events import DockerEvent, encode
from sematext_agent.shared.logs import configure_logging
from sematext_agent.shared.settings import Secret
from sematext_agent.shared.subjects import DEAD_REASON_HEADER, subject_of

HOSTILE = "x\nFORGED\r\x85\u2028\x1b[2J\x9b31m\x00\x7f\u202e\u2066 y"


async def test_a_printed_document_is_one_printable_line(
    start: Start, connection: bus.Bus, capsys: pytest.CaptureFixture[str]
) -> None:
    await start(infra_token=Secret(""))
    body = DockerEvent(type="container", action="x", actor_id="1", attributes={"name": HOSTILE})
    event = an_event(1, body=body)
    await connection.publish(subject_of(event), encode(event), event.id)
    out = ""

    def printed() -> bool:
        nonlocal out
        out += capsys.readouterr().out
        return out.endswith("\n")

    await wait_until(printed)
    (line,) = out.removesuffix("\n").split("\n")
    assert line.isprintable()
    assert json.loads(line)["container.name"] == HOSTILE


async def test_an_answer_of_the_receiver_is_one_printable_line(
    start: Start,
    publisher: Publisher,
    receiver: Receiver,
    connection: bus.Bus,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    configure_logging("forwarder", "debug")
    receiver.reply = Reply(400, HOSTILE.encode())
    forwarder = await start()
    await publisher.publish()
    await wait_until(lambda: "dead letter" in forwarder.health.report().last_error)
    (letter,) = await dead_letters(connection)
    assert "FORGED" in letter["headers"][DEAD_REASON_HEADER]
    assert letter["headers"][DEAD_REASON_HEADER].isprintable()
    lines = capsys.readouterr().err.removesuffix("\n").split("\n")
    assert any("FORGED" in line for line in lines)
    assert all(line.isprintable() and not line.startswith("FORGED") for line in lines)
