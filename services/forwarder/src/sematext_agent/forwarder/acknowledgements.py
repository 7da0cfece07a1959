"""Acknowledgements to the stream of events, the last step of every delivery."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable

from sematext_agent.forwarder.concurrency_limiter import IN_FLIGHT_MAX
from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.stream_identity import StreamIdentity
from sematext_agent.shared.bus import Bus, Message, Msg
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import NS_PER_SECOND

_CONFIRM_EVENTS = 16
"""Every so many acknowledgements, the stream is asked to confirm that it has them."""


class Acknowledgements:
    """The messages that may be acknowledged; `run` does it.

    A forwarder whose connection takes nothing more, but still delivers, does not know that its
    acknowledgements are lost. So those that are not confirmed count as in flight.
    """

    def __init__(
        self, bus: Bus, identity: StreamIdentity, in_flight: InFlight, clock: Clock
    ) -> None:
        """Begin with none."""
        self._bus = bus
        self._identity = identity
        self._in_flight = in_flight
        self._clock = clock
        self._messages: deque[Message] = deque()
        self._unconfirmed: deque[float] = deque()
        """The monotonic seconds at which each was sent that is not confirmed."""
        self._unasked = 0  # sent since a confirmation was asked for
        self._is_pending = asyncio.Event()
        self.on_confirmed: Callable[[], None] = lambda: None

    def __len__(self) -> int:
        """Return the number of messages to acknowledge."""
        return len(self._messages)

    def may_send(self, sending: int) -> bool:
        """Return whether one more event may be sent beside the `sending` ones.

        Were this forwarder lost or cut off now, all of them would be delivered a second time.
        """
        unconfirmed = len(self._messages) + len(self._unconfirmed)
        return self._bus.is_connected and sending + unconfirmed < IN_FLIGHT_MAX

    def add(self, message: Message) -> None:
        """Acknowledge `message` soon."""
        self._messages.append(message)
        self._is_pending.set()

    def finish(self, delivery: Delivery) -> None:
        """End `delivery` and acknowledge all its messages soon."""
        self._in_flight.remove(delivery)
        for message in delivery.messages.values():
            self.add(message)

    def forget(self) -> None:
        """Leave the messages to the stream, which delivers them again."""
        self._messages.clear()

    def confirm(self, sent_at: float) -> None:
        """Count what was sent until `sent_at`, in monotonic seconds, as confirmed."""
        unconfirmed = self._unconfirmed
        while unconfirmed and unconfirmed[0] <= sent_at:
            unconfirmed.popleft()
        self.on_confirmed()

    async def run(self) -> None:
        """Acknowledge for ever."""
        inbox = self._bus.new_inbox()
        await self._bus.subscribe(f"{inbox}.*", self._on_confirmation)
        while True:
            await self._is_pending.wait()
            self._is_pending.clear()
            while self._messages:
                if not self._identity.is_confirmed:
                    await self._identity.confirm()
                    continue
                await self._acknowledge(self._messages.popleft(), inbox)

    async def _acknowledge(self, message: Message, inbox: str) -> None:
        now = self._clock.monotonic()
        self._unconfirmed.append(now)
        self._unasked += 1
        if self._unasked < _CONFIRM_EVENTS:
            await self._bus.acknowledge(message)
        else:
            self._unasked = 0
            await self._bus.acknowledge(message, f"{inbox}.{int(now * NS_PER_SECOND)}")

    async def _on_confirmation(self, message: Msg) -> None:
        sent_at = message.subject.rpartition(".")[2]
        if sent_at.isdecimal():
            self.confirm((int(sent_at) + 1) / NS_PER_SECOND)
