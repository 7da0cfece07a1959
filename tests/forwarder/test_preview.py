"""The preview of a document is the document that is sent."""

from __future__ import annotations

import json

from broker import wait_for_streams, wait_until
from forwarding import Start, an_event
from receiver import TOKEN, Receiver

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import encode
from sematext_agent.shared.subjects import DOCUMENT_SUBJECT, subject_of


async def test_the_preview_is_the_document_that_is_sent(
    start: Start, receiver: Receiver, connection: Bus
) -> None:
    await start(tags=("env:dev", f"oops:{TOKEN}"))
    event = an_event(1)
    await wait_for_streams(connection)
    await connection.publish(subject_of(event), encode(event), event.id)
    await wait_until(lambda: bool(receiver.documents))
    preview = await connection.request(DOCUMENT_SUBJECT, encode(event), 5)
    assert preview is not None
    assert TOKEN not in preview.decode()
    assert json.loads(preview.decode().replace("********", TOKEN)) == receiver.documents[0]


async def test_a_message_that_is_no_event_has_no_preview(start: Start, connection: Bus) -> None:
    await start()
    await wait_for_streams(connection)
    assert await connection.request(DOCUMENT_SUBJECT, b"{}", 5) == b""
    assert await connection.request("agent.nobody", b"", 0.2) is None
