"""Acknowledgements to the stream of events, the last step of every delivery."""

from __future__ import annotations

import asyncio
from collections import deque

from sematext_agent.forwarder.delivery import Delivery
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.stream_identity import StreamIdentity
from sematext_agent.shared.bus import Bus, Message


class Acknowledgements:
    """The messages that may be acknowledged; `run` does it."""

    def __init__(self, bus: Bus, identity: StreamIdentity, in_flight: InFlight) -> None:
        """Begin with none."""
        self._bus = bus
        self._identity = identity
        self._in_flight = in_flight
        self._messages: deque[Message] = deque()
        self._is_pending = asyncio.Event()

    def __len__(self) -> int:
        """Return the number of messages to acknowledge."""
        return len(self._messages)

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

    async def run(self) -> None:
        """Acknowledge for ever."""
        while True:
            await self._is_pending.wait()
            self._is_pending.clear()
            while self._messages:
                if not self._identity.is_confirmed:
                    await self._identity.confirm()
                    continue
                await self._bus.acknowledge(self._messages.popleft())
