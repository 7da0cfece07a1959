"""Reading a stream that another process owns: its state, its messages, and those to come."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any

import msgspec

from sematext_agent.shared.bus import Bus, BusError, JetStreamError, Message, Puller
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, OVERTAKING_CONSUMER

StartPosition = datetime.datetime | int
"""The first message to read: a time, or a number in the stream."""
_WINDOW_MESSAGES = 256


async def find_info(
    bus: Bus, call: str, request: dict[str, Any] | None = None, domain: str = ""
) -> dict[str, Any] | None:
    """Return JetStream's answer about a stream, consumer or message, or None if it has none.

    `domain` names a leaf node. Raises BusError.
    """
    try:
        return await bus.request_api(call, request, domain)
    except JetStreamError as refusal:
        if refusal.code != HTTPStatus.NOT_FOUND:
            raise
        return None


class Backlog(msgspec.Struct, frozen=True):
    """The events that the forwarder has still to deliver."""

    waiting: int
    """Events in the stream that no forwarder has yet."""
    in_flight: int
    """Events that a forwarder is delivering."""

    @property
    def total(self) -> int:
        """Events that are not delivered yet."""
        return self.waiting + self.in_flight


async def read_backlog(bus: Bus) -> Backlog | None:
    """Return the forwarder's backlog, or None before it has created its consumer.

    Raises BusError.
    """
    consumer = await find_info(bus, f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    if consumer is None:
        return None
    overtaking = await find_info(bus, f"CONSUMER.INFO.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}")
    return compute_backlog(consumer, overtaking)


def compute_backlog(consumer: dict[str, Any], overtaking: dict[str, Any] | None) -> Backlog:
    """Return the backlog by the answers about the forwarder's consumer and the overtaking one.

    An event that has overtaken the backlog is not counted, though the first consumer has still to
    pass over it: docs/decisions/0012.
    """
    waiting, in_flight = consumer["num_pending"], consumer["num_ack_pending"]
    if overtaking is not None:
        first = overtaking["config"]["opt_start_seq"]
        delivered = overtaking["ack_floor"]["stream_seq"]
        passed_over = max(first - 1, consumer["ack_floor"]["stream_seq"])
        overtaken = overtaking["num_ack_pending"] + max(0, delivered - passed_over)
        waiting = max(0, waiting - overtaken)
        in_flight += overtaking["num_ack_pending"]
    return Backlog(waiting, in_flight)


async def follow_messages(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncGenerator[Message, None]:
    """Yield the messages on `subject` from `since` on, then those to come; never end.

    It outlives restarts of the broker, where it continues behind its last message, and waits for
    the stream to be created.
    """
    backoff = Backoff(0.05, 1)
    while True:
        try:
            async with _open_reader(bus, stream, subject, since) as (_, messages):
                backoff.reset()
                async for message in messages:
                    since = message.sequence + 1
                    yield message
        except BusError:
            await asyncio.sleep(backoff.draw_delay_seconds())


async def read_messages(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncGenerator[Message, None]:
    """Yield the messages stored on `subject` from `since` on, none where there is no stream.

    Raises:
        BusError: the broker went away before all of them were read.
    """
    try:
        async with _open_reader(bus, stream, subject, since) as (count, messages):
            if not count:
                return
            async for message in messages:
                yield message
                if not message.pending_count:
                    return
    except JetStreamError as refusal:
        if refusal.code != HTTPStatus.NOT_FOUND:
            raise
        return
    raise BusError(f"the broker went away while {stream} was read")


@contextlib.asynccontextmanager
async def _open_reader(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncIterator[tuple[int, AsyncGenerator[Message, None]]]:
    """Yield the number of stored messages, and all messages until the server forgets the reader.

    Its consumer acknowledges nothing, and the server removes it when nobody pulls from it any more.
    """
    start = (
        {"deliver_policy": "by_start_sequence", "opt_start_seq": since}
        if isinstance(since, int)
        else {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
    )
    # It has a name, because the broker grants the permission to create one by its name.
    name = f"reader-{bus.new_inbox().rpartition('.')[2]}"
    config = start | {
        "name": name,
        "filter_subject": subject,
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": 30 * NS_PER_SECOND,
    }
    request = {"stream_name": stream, "config": config}
    consumer = await bus.request_api(f"CONSUMER.CREATE.{stream}.{name}.{subject}", request)
    puller = bus.create_puller(stream, name, _WINDOW_MESSAGES)
    stopping = asyncio.create_task(_stop_when_missing(puller))
    try:
        async with contextlib.aclosing(aiter(puller)) as messages:  # type: ignore[type-var]
            yield consumer["num_pending"], messages  # type: ignore[misc]
    finally:
        stopping.cancel()


async def _stop_when_missing(puller: Puller) -> None:
    await puller.consumer_missing.wait()
    puller.stop()
