"""The keeper of the streams: provisions them anew when they vanish, trims them, watches bounds."""

from __future__ import annotations

import asyncio
import logging
from http import HTTPStatus

from sematext_agent.forwarder import overtaking
from sematext_agent.forwarder.bucket_growth import BucketGrowth
from sematext_agent.forwarder.consumers import DurableConsumer, Info
from sematext_agent.forwarder.dropped_dead_letters import DroppedDeadLetters
from sematext_agent.forwarder.overtaking import OvertakingConsumer
from sematext_agent.forwarder.provisioner import CONDITION, Provisioner
from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.forwarder.trimmer import Trimmer
from sematext_agent.shared.bus import Bus, BusError, JetStreamError
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.health import Health
from sematext_agent.shared.stream_reader import compute_backlog
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM, FORWARDER_CONSUMER
from sematext_agent.shared.waiting import wait_for_event

log = logging.getLogger(__name__)

INSPECT_SECONDS = 2.0
"""Pause between two inspections."""
IDLE_FACTOR = 5
"""Factor of the pause while nothing arrives, because an inspection is four requests."""


class StreamStatus:
    """The state of the streams at the last inspection."""

    def __init__(self, health: Health, bytes_max: int) -> None:
        """Add its figures to `health`."""
        self.lag = 0
        """Events in the stream that are not delivered yet."""
        self.bytes = 0
        self.bytes_max = bytes_max
        self.dead_letters = 0
        self.is_idle = False
        """True while nothing has arrived since the inspection before."""
        self._last_sequence = 0
        health.add_figure("lag_events", "Events in the stream not delivered yet.", lambda: self.lag)
        health.add_figure("stream_bytes", "Bytes in the stream of events.", lambda: self.bytes)
        health.add_figure(
            "stream_limit_bytes",
            "Bytes at which the stream of events is full.",
            lambda: self.bytes_max,
        )
        health.add_figure("dead_letters", "Events in the stream DEAD.", lambda: self.dead_letters)

    def update(self, lag: int, stream: Info, dead: Info) -> None:
        """Take in the information about the streams."""
        self.lag = lag
        self.bytes = stream["state"]["bytes"]
        self.dead_letters = dead["state"]["messages"]
        last_sequence = stream["state"]["last_seq"]
        self.is_idle = not lag and last_sequence == self._last_sequence
        self._last_sequence = last_sequence


class StreamKeeper:
    """The owner of the streams and of their consumers."""

    def __init__(
        self, bus: Bus, settings: ForwarderSettings, health: Health, clock: Clock = SYSTEM_CLOCK
    ) -> None:
        """Create the puller, which asks for nothing yet, and nothing at the broker."""
        self._bus = bus
        self._domain = settings.nats_domain
        self._health = health
        self._consumer = DurableConsumer(bus, FORWARDER_CONSUMER, self._domain)
        self.puller = self._consumer.create_puller()
        """All events in their order."""
        self.overtaking = OvertakingConsumer(bus, self._domain, self.puller, health, clock)
        self.trimmer = Trimmer(bus, self._domain, clock)
        self.provisioner = Provisioner(bus, settings, health, self._consumer, self.trimmer)
        self.status = StreamStatus(health, settings.stream_bytes_max)
        self.dropped_dead_letters = DroppedDeadLetters(bus, health, clock)
        self.bucket_growth = BucketGrowth(bus, health, clock)
        self._leader: tuple[str, str] | None = None
        """The creation time of the first consumer, and the server that leads it."""
        self.ready = asyncio.Event()
        """The event that the streams have been provisioned for the first time."""

    async def keep(self) -> None:
        """Inspect the streams for ever, and provision them at once when the consumer vanishes."""
        await self.provisioner.provision()
        await self.overtaking.discover()
        self.ready.set()
        consumer_missing = self.puller.consumer_missing
        while True:
            is_missing = await wait_for_event(consumer_missing, self._pause_seconds())
            if is_missing or not await self.inspect():
                await self.provisioner.provision()
                consumer_missing.clear()
                # The requests of the puller vanished with the consumer.
                self.puller.renew_request()

    def forget_sequences(self) -> None:
        """Forget every sequence, because the stream gives them out anew."""
        self.trimmer.forget()
        self.overtaking.forget()

    def _pause_seconds(self) -> float:
        if self.overtaking.is_near_end:
            return overtaking.HANDOVER_SECONDS
        return INSPECT_SECONDS * (IDLE_FACTOR if self.status.is_idle else 1)

    async def inspect(self) -> bool:
        """Trim the stream and take in its state; return False where something has vanished."""
        try:
            await self._inspect()
        except JetStreamError as refusal:
            self._health.set_condition(CONDITION, False, str(refusal))
            return False
        except BusError as error:
            # The condition `bus` shows a broker that is away; nothing else shows a leaf node.
            if self._domain:
                self._health.set_condition(CONDITION, False, f"{self._domain} is away: {error}")
            log.debug("streams not inspected: %s", error)
            return True
        full = self.status.bytes / self.status.bytes_max
        self._health.set_condition(
            CONDITION, True, f"{full:.0%} full, {self.status.lag} events not delivered yet"
        )
        return True

    async def _inspect(self) -> None:
        names = (await self._request("STREAM.NAMES")).get("streams") or []
        if missing := {config["name"] for config in self.provisioner.configs} - set(names):
            raise JetStreamError(HTTPStatus.NOT_FOUND, f"{', '.join(sorted(missing))} vanished")
        disturbed_at = self.puller.disturbed_at
        stream = await self._request(f"STREAM.INFO.{EVENTS_STREAM}")
        consumer = await self._consumer.request_info()
        self._note_leader(consumer)
        dead = await self._bus.request_api(f"STREAM.INFO.{DEAD_STREAM}")
        self.status.bytes_max = stream["config"]["max_bytes"]
        if self._bus.is_connected and self.puller.disturbed_at == disturbed_at:
            # Otherwise the sequences may be those of a store that was put back to a copy meanwhile.
            await self.trimmer.trim(stream, consumer)
        await self.dropped_dead_letters.inspect(dead)
        await self.bucket_growth.inspect()
        await self.overtaking.inspect(stream, consumer)
        lag = compute_backlog(consumer, self.overtaking.info).total
        self.status.update(lag, stream, dead)

    def _note_leader(self, consumer: Info) -> None:
        """Expect redeliveries where the consumer was made anew or has another leader.

        The puller notices that by itself if it has a request open at that moment.
        """
        leader = consumer["created"], consumer.get("cluster", {}).get("leader", "")
        if self._leader is not None and leader != self._leader:
            self.puller.expect_redelivery()
        self._leader = leader

    async def _request(self, call: str) -> Info:
        return await self._bus.request_api(call, None, self._domain)
