"""The identity of the stream of events: whether its sequences still name the events they named.

A broker whose store was put back to a copy, and a stream that was made anew, give sequences out a
second time. An acknowledgement names a sequence only, so that of a message received before would
settle another event, which then nobody delivers.
"""

from __future__ import annotations

import asyncio
import logging
import math
from collections.abc import Callable

from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.shared.bus import Bus, BusError, Message
from sematext_agent.shared.events import parse_rfc3339
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.stream_reader import find_info
from sematext_agent.shared.subjects import EVENTS_STREAM

log = logging.getLogger(__name__)


class StreamIdentity:
    """The comparison of the stream with the newest message that it delivered before a disturbance.

    After each disturbance of a puller, and before anything is acknowledged or taken in, that
    message has to be in the stream as it was. Then all before it are, too.
    """

    def __init__(self, bus: Bus, domain: str, in_flight: InFlight) -> None:
        """Begin without a message."""
        self._bus = bus
        self._domain = domain
        self._in_flight = in_flight
        self._newest: Message | None = None
        """The admitted message with the highest sequence."""
        self._entering: list[Message] = []
        self._comparing = asyncio.Lock()
        # By the loop's clock, as the pullers' disturbances.
        self._confirmed_at = self._changed_at = -math.inf
        self.on_change: list[Callable[[], None]] = []
        """The functions that are called when the sequences turn out to be others."""

    @property
    def is_confirmed(self) -> bool:
        """True while the broker is in reach and nothing has been disturbed since the comparison."""
        return self._bus.is_connected and self._confirmed_at >= self._disturbed_at

    @property
    def _disturbed_at(self) -> float:
        return max(puller.disturbed_at for puller in self._in_flight.pullers)

    async def admit(self, message: Message) -> bool:
        """Return whether `message` is of the stream as it is now; compare it first if need be."""
        if not self.is_confirmed:
            self._entering.append(message)
            await self.confirm()
            self._entering.remove(message)
        if message.received_at <= self._changed_at:
            return False
        if self._newest is None or message.sequence > self._newest.sequence:
            self._newest = message
        return True

    async def confirm(self) -> None:
        """Compare until the identity is confirmed, or everything of before has been released."""
        backoff = Backoff(0.1, 2)
        async with self._comparing:
            while not self.is_confirmed:
                try:
                    await self._compare()
                except BusError as error:
                    log.debug("the stream's identity is not confirmed yet: %s", error)
                if not self.is_confirmed:
                    # A comparison need not have waited: nats-py knows that the connection is lost
                    # before it calls us, and its reconnecting needs the loop.
                    await asyncio.sleep(backoff.draw_delay_seconds())

    async def _compare(self) -> None:
        await self._bus.wait_until_connected()
        disturbed_at = self._disturbed_at
        newest = self._newest_before(disturbed_at)
        if newest is not None and not await self._is_stored(newest):
            self._newest, self._changed_at = None, disturbed_at
            for callback in self.on_change:
                callback()
        self._confirmed_at = disturbed_at

    def _newest_before(self, disturbed_at: float) -> Message | None:
        """Return the message with the highest sequence of all that arrived before."""
        messages = [*self._entering, *([self._newest] if self._newest else [])]
        for puller in self._in_flight.pullers:
            messages.extend(puller.buffered)
        return max(
            (message for message in messages if message.received_at <= disturbed_at),
            key=lambda message: message.sequence,
            default=None,
        )

    async def _is_stored(self, message: Message) -> bool:
        """Return whether the stream still has `message` under its sequence.

        It has not, either, where all events were delivered and trimmed: then nothing is in flight.

        Raises:
            BusError: the broker does not answer.
        """
        request = {"seq": message.sequence}
        try:
            call = f"STREAM.MSG.GET.{EVENTS_STREAM}"
            stored = await find_info(self._bus, call, request, self._domain)
        except BusError:
            # Users that an earlier version defined have no right to this request.
            call = f"STREAM.INFO.{EVENTS_STREAM}"
            stream = await find_info(self._bus, call, domain=self._domain)
            return stream is not None and stream["state"]["last_seq"] >= message.sequence
        return stored is not None and parse_rfc3339(stored["message"]["time"]) == message.time_ns
