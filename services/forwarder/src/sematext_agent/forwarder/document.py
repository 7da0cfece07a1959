"""Shows what the forwarder makes of an event, to whoever asks for it on the bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sematext_agent.forwarder.enrich import encode, enrich
from sematext_agent.forwarder.facts import Facts
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.bus import Bus, Msg
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import decode
from sematext_agent.shared.subjects import DOCUMENT_SUBJECT


async def show_documents(
    bus: Bus, facts: Facts, settings: ForwarderSettings
) -> Callable[[], Awaitable[None]]:
    """Answers `DOCUMENT` from now on; returns what ends it.

    By the same two functions that ship an event, so that the answer is what was shipped, as far as
    the facts of the host have not changed since.
    """

    async def answer(message: Msg) -> None:
        try:
            event = decode(message.data)
        except DECODE_ERRORS:
            await bus.reply(message, b"")
            return
        document = encode(enrich(event, facts.of(event.origin), settings.tags))
        await bus.reply(message, settings.redact(document.decode()).encode())

    return await bus.subscribe(DOCUMENT_SUBJECT, answer)
