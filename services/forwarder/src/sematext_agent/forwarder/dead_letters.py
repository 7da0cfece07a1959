"""Dead letters: events that the destination, or this forwarder, will never be able to take.

Each is stored in the stream DEAD, and acknowledged there, before it is acknowledged in the stream
of events; so it is in one of the two at every moment.
"""

from __future__ import annotations

import asyncio
import logging
from functools import partial

from sematext_agent.forwarder.acknowledgements import Acknowledgements
from sematext_agent.forwarder.delivery import Delivery, DeliveryState, transition
from sematext_agent.forwarder.metrics import DeliveryMetrics
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.bus import Bus, BusError, Message
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import format_rfc3339
from sematext_agent.shared.logs import escape
from sematext_agent.shared.retry import Backoff, retry
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    EVENTS_STREAM,
    clean_token,
    dead_subject,
)

log = logging.getLogger(__name__)

_REASON_CHARACTERS_MAX = 500
_ID_CHARACTERS_MAX = 200
_SUBJECT_CHARACTERS_MAX = 1000
"""The broker closes a connection on a line of over 4,096 bytes, and would do so at every retry."""
_EXCERPT_BYTES = 64


def fallback_id(message: Message, domain: str) -> str:
    """Return an id for `message` of the stream in `domain`, where its own cannot be used.

    It is the same at every redelivery. The time at which the message was stored distinguishes two
    messages that had the same sequence, one of them before the stream was made anew.
    """
    stream = f"{EVENTS_STREAM}-{domain}" if domain else EVENTS_STREAM
    return f"{stream}:{message.sequence}:{message.time_ns}"


async def store_dead_letter(
    bus: Bus, clock: Clock, message: Message, domain: str, status: int, reason: str
) -> None:
    """Store `message` in the dead-letter stream; return once it is safe, however long that takes.

    `domain` is that of the stream of events. `status` is the destination's, or 0 where the event
    was never sent.
    """
    headers = {
        DEAD_REASON_HEADER: _ascii(reason)[:_REASON_CHARACTERS_MAX],
        DEAD_STATUS_HEADER: str(status),
        DEAD_SEQUENCE_HEADER: str(message.sequence),
        DEAD_TIME_HEADER: format_rfc3339(clock.wall_ns()),
    }
    # Its own id, or one that is the same at every redelivery: the stream stores it once.
    message_id = _ascii(message.id)
    if not 0 < len(message_id) <= _ID_CHARACTERS_MAX:
        message_id = fallback_id(message, domain)
    subject = dead_subject(_clean(message.subject))
    await retry(
        partial(bus.publish, subject, message.data, message_id, headers),
        BusError,
        Backoff(0.2, 10),
        lambda error: log.debug("a dead letter is not stored yet: %s", error),
    )


class DeadLetters:
    """The deliveries that are being stored in the dead-letter stream."""

    def __init__(
        self,
        runtime: Runtime[ForwarderSettings],
        tasks: asyncio.TaskGroup,
        acknowledgements: Acknowledgements,
        metrics: DeliveryMetrics,
    ) -> None:
        """Store in tasks of `tasks`, then acknowledge."""
        self._runtime = runtime
        self._tasks = tasks
        self._acknowledgements = acknowledgements
        self._metrics = metrics
        self._storing: dict[asyncio.Task[None], None] = {}

    def add(self, delivery: Delivery, status: int, detail: str, reason: str) -> None:
        """Begin to store `delivery`: `detail` is for a person, `reason` a label of the metric."""
        transition(delivery, DeliveryState.DEAD_LETTERING)
        message = next(iter(delivery.messages.values()))
        task = self._tasks.create_task(self._store(delivery, message, status, detail, reason))
        self._storing[task] = None
        task.add_done_callback(self._storing.pop)

    def cancel(self) -> None:
        """Store no more: the events not stored yet stay in the stream of events."""
        for task in self._storing:
            task.cancel()

    async def _store(
        self, delivery: Delivery, message: Message, status: int, detail: str, reason: str
    ) -> None:
        runtime = self._runtime
        domain = runtime.settings.nats_domain
        await store_dead_letter(runtime.bus, runtime.clock, message, domain, status, detail)
        self._metrics.dead_lettered.labels(reason).inc()
        runtime.health.record_error(
            f"made event {delivery.id} on {message.subject} a dead letter: {detail}"
        )
        self._acknowledgements.finish(delivery)


def excerpt(data: bytes) -> str:
    """Return the beginning of an undecodable payload, in hexadecimal digits."""
    return data[:_EXCERPT_BYTES].hex(" ") + (" …" if len(data) > _EXCERPT_BYTES else "")


def _ascii(text: str) -> str:
    """Return `text` as a header may carry it."""
    return escape(text).encode("ascii", "backslashreplace").decode()


def _clean(subject: str) -> str:
    """Return a subject, which anybody may have made up, in tokens that can be published on."""
    return ".".join(map(clean_token, subject.split(".")))[:_SUBJECT_CHARACTERS_MAX].rstrip(".")
