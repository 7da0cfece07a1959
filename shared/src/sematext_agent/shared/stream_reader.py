"""Looking on at a stream that somebody else owns: what it holds, and what comes."""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import uuid
from collections.abc import AsyncGenerator, AsyncIterator
from http import HTTPStatus
from typing import Any

import msgspec

from sematext_agent.shared.bus import Bus, BusError, JetStreamError, Message, Puller
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, OVERTAKING_CONSUMER

StartPosition = datetime.datetime | int
"""From where on: a time, or a number in the stream."""
_WINDOW = 256


async def find_info(
    bus: Bus, call: str, request: dict[str, Any] | None = None, domain: str = ""
) -> dict[str, Any] | None:
    """What JetStream, also a leaf node's, says of a stream, consumer or message; None where it is
    none.

    Raises BusError.
    """
    try:
        return await bus.request_api(call, request, domain)
    except JetStreamError as refusal:
        if refusal.code != HTTPStatus.NOT_FOUND:
            raise
        return None


class Backlog(msgspec.Struct, frozen=True):
    """What the forwarder has still to ship."""

    waiting: int
    """Events in the stream that no forwarder has yet."""
    in_flight: int
    """Events that some forwarder is shipping."""

    @property
    def total(self) -> int:
        """Events that are not shipped yet."""
        return self.waiting + self.in_flight


async def read_backlog(bus: Bus) -> Backlog | None:
    """How far behind the forwarder is; None where it has not made its consumer yet.

    Raises BusError.
    """
    consumer = await find_info(bus, f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER_CONSUMER}")
    if consumer is None:
        return None
    return compute_backlog(
        consumer, await find_info(bus, f"CONSUMER.INFO.{EVENTS_STREAM}.{OVERTAKING_CONSUMER}")
    )


def compute_backlog(consumer: dict[str, Any], ahead: dict[str, Any] | None) -> Backlog:
    """The same, by what JetStream says of the forwarder's consumer, and of the second one, if any.

    What has overtaken a backlog is not counted, though the first consumer has still to pass over
    it: docs/decisions/0012.
    """
    waiting, in_hand = consumer["num_pending"], consumer["num_ack_pending"]
    if ahead is not None:
        first, told = ahead["config"]["opt_start_seq"], ahead["ack_floor"]["stream_seq"]
        passed_over = max(first - 1, consumer["ack_floor"]["stream_seq"])
        waiting = max(0, waiting - ahead["num_ack_pending"] - max(0, told - passed_over))
        in_hand += ahead["num_ack_pending"]
    return Backlog(waiting, in_hand)


async def follow_messages(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncGenerator[Message, None]:
    """What is stored on `subject` from `since` on, then what comes; never ends.

    It outlives the broker's restarts, and waits for the stream to be made: it goes on behind the
    last message it had.
    """
    backoff = Backoff(0.05, 1)
    while True:
        try:
            async with _onlooker(bus, stream, subject, since) as (_, messages):
                backoff.reset()
                async for message in messages:
                    since = message.sequence + 1
                    yield message
        except BusError:
            await asyncio.sleep(backoff.draw_delay_seconds())


async def read_messages(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncGenerator[Message, None]:
    """What is stored on `subject` from `since` on, and no more: nothing where there is no stream.

    Raises:
        BusError: the broker went away before all of it was read.
    """
    try:
        async with _onlooker(bus, stream, subject, since) as (count, messages):
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
async def _onlooker(
    bus: Bus, stream: str, subject: str, since: StartPosition
) -> AsyncIterator[tuple[int, AsyncGenerator[Message, None]]]:
    """How many messages are waiting, and all that come until the server has forgotten us.

    Its consumer acknowledges nothing, and the server drops it when nobody asks it any more.
    """
    start = (
        {"deliver_policy": "by_start_sequence", "opt_start_seq": since}
        if isinstance(since, int)
        else {"deliver_policy": "by_start_time", "opt_start_time": since.isoformat()}
    )
    config = start | {
        "filter_subject": subject,
        "ack_policy": "none",
        "mem_storage": True,
        "inactive_threshold": 30 * NS_PER_SECOND,
    }
    # It has a name, because the broker grants the right to make one by its name.
    config["name"] = f"onlooker-{uuid.uuid4().hex}"
    made = await bus.request_api(
        f"CONSUMER.CREATE.{stream}.{config['name']}.{subject}",
        {"stream_name": stream, "config": config},
    )
    puller = bus.create_puller(stream, made["name"], _WINDOW)
    watching = asyncio.create_task(_stop_when_missing(puller))
    try:
        async with contextlib.aclosing(aiter(puller)) as messages:  # type: ignore[type-var]
            yield made["num_pending"], messages  # type: ignore[misc]
    finally:
        watching.cancel()


async def _stop_when_missing(puller: Puller) -> None:
    await puller.consumer_missing.wait()
    puller.stop()
