"""De-duplication: an event that was delivered, or that another forwarder delivers, is not sent."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable

from sematext_agent.forwarder.delivered_ids import DeliveredIds
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.peers import PeerAnswer, Peers
from sematext_agent.shared.bus import Bus, Message, Puller
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.events import NS_PER_SECOND

OnMessage = Callable[[Message], None]


class Deduplication:
    """The decision whether a redelivered event still has to be sent; `run` makes it."""

    def __init__(
        self,
        bus: Bus,
        domain: str,
        in_flight: InFlight,
        delivered_ids: DeliveredIds,
        clock: Clock,
    ) -> None:
        """Compare with what this forwarder has delivered and has in flight, and ask the others."""
        self._in_flight = in_flight
        self._delivered_ids = delivered_ids
        self._clock = clock
        self._is_pending = asyncio.Event()
        self._peers = Peers(bus, domain, self._answer)

    async def discover_peers(self) -> None:
        """Find the other forwarders, before the first event is received."""
        await self._peers.discover()

    def defer(self, message: Message, puller: Puller) -> bool:
        """Keep `message` for `run` where its event may have been delivered by another forwarder.

        Returns whether it was kept.
        """
        if message.delivery_count <= 1:
            age_seconds = (self._clock.wall_ns() - message.time_ns) / NS_PER_SECOND
            if not puller.expects_redelivery(age_seconds):
                return False
        if not message.id or message.id in self._in_flight or message.id in self._delivered_ids:
            return False
        self._in_flight.add_possible_duplicate(message)
        self._is_pending.set()
        return True

    async def run(self, on_new: OnMessage, on_duplicate: OnMessage) -> None:
        """Ask the other forwarders about every possible duplicate, for ever.

        `on_new` gets each message whose event nobody has, `on_duplicate` each whose event another
        forwarder has delivered. An event in flight elsewhere is acknowledged there or redelivered.
        """
        while True:
            await self._is_pending.wait()
            self._is_pending.clear()
            ids = list(self._in_flight.possible_duplicates)
            answer = await self._peers.ask(ids)
            for message_id in ids:
                message = self._in_flight.remove_possible_duplicate(message_id)
                if message is None:
                    continue
                if message_id in answer.delivered:
                    on_duplicate(message)
                elif message_id not in answer.in_flight:
                    on_new(message)

    def _answer(self, ids: Iterable[str], asker_gives_way: bool) -> PeerAnswer:
        """Return what this forwarder has delivered and has in flight of the events with `ids`."""
        ids = frozenset(ids)
        in_flight = {message_id for message_id in ids if message_id in self._in_flight}
        if asker_gives_way:
            in_flight |= ids & self._in_flight.possible_duplicates.keys()
        delivered = frozenset(filter(self._delivered_ids.__contains__, ids))
        return PeerAnswer(delivered=delivered, in_flight=frozenset(in_flight))
