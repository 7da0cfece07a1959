"""What the forwarder says it makes of an event is what it ships."""

from __future__ import annotations

import json

from broker import eventually, until_streams_are_made
from forwarding import Start, an_event
from receiver import TOKEN, Receiver

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import encode
from sematext_agent.shared.subjects import DOCUMENT_SUBJECT, subject_of


async def test_the_document_it_shows_is_the_one_it_ships(
    start: Start, receiver: Receiver, connection: Bus
) -> None:
    await start(tags=("env:dev", f"oops:{TOKEN}"))
    event = an_event(1)
    await until_streams_are_made(connection)
    await connection.publish(subject_of(event), encode(event), event.id)
    await eventually(lambda: receiver.documents)
    shown = await connection.request(DOCUMENT_SUBJECT, encode(event), 5)
    assert shown is not None
    assert TOKEN not in shown.decode()
    assert json.loads(shown.decode().replace("********", TOKEN)) == receiver.documents[0]


async def test_of_what_is_no_event_it_shows_nothing(start: Start, connection: Bus) -> None:
    await start()
    await until_streams_are_made(connection)
    assert await connection.request(DOCUMENT_SUBJECT, b"{}", 5) == b""
    assert await connection.request("agent.nobody", b"", 0.2) is None
