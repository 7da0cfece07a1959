"""Previews: the document of an event, for anybody who asks for it on the bus."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from sematext_agent.forwarder.destination import Destination
from sematext_agent.forwarder.host_facts import HostFactsCache, encode_event
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.bus import Bus, Msg
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import decode
from sematext_agent.shared.subjects import DOCUMENT_SUBJECT


async def answer_previews(
    bus: Bus, destination: Destination, facts: HostFactsCache, settings: ForwarderSettings
) -> Callable[[], Awaitable[None]]:
    """Answer `agent.document` from now on; return the function that ends it.

    `destination` encodes the document as it does for a delivery, so the answer is what was sent,
    unless the facts of the host have changed since.
    """

    async def answer(message: Msg) -> None:
        try:
            event = decode(message.data)
        except DECODE_ERRORS:
            await bus.reply(message, b"")
            return
        document = encode_event(destination, facts, event)
        await bus.reply(message, settings.redact(document.decode()).encode())

    return await bus.subscribe(DOCUMENT_SUBJECT, answer)
