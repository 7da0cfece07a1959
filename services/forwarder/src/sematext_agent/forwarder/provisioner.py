"""Provisioning of the streams, the buckets and the consumer, which the forwarder owns.

With a domain they are those of a leaf node, which has no forwarder of its own: its events stay
there until they are delivered. Only its dead letters go to the stream DEAD of the broker.
"""

from __future__ import annotations

import logging
from typing import cast

from sematext_agent.forwarder.consumers import DurableConsumer, Info
from sematext_agent.forwarder.settings import STREAM_BYTES_MIN, ForwarderSettings
from sematext_agent.forwarder.stream_configs import stream_configs
from sematext_agent.forwarder.trimmer import Trimmer
from sematext_agent.shared.bus import Bus, BusError, JetStreamError
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff, retry
from sematext_agent.shared.stream_reader import find_info
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM

log = logging.getLogger(__name__)

CONDITION = "streams"
_DISK_FULL = "insufficient storage"


class Provisioner:
    """The streams as they must be: `provision` creates and updates them."""

    def __init__(
        self,
        bus: Bus,
        settings: ForwarderSettings,
        health: Health,
        consumer: DurableConsumer,
        trimmer: Trimmer,
    ) -> None:
        """Report to the condition `streams` of `health`."""
        self._bus = bus
        self._domain = settings.nats_domain
        self._health = health
        self._consumer = consumer
        self._trimmer = trimmer
        self.configs = stream_configs(settings)
        health.expect_condition(CONDITION, "not made yet")

    async def provision(self) -> None:
        """Create what is missing and update what differs; try until that is done."""
        await retry(self._provision, BusError, Backoff(0.2, 10), self._report_failure)
        self._health.set_condition(CONDITION, True, "made")

    async def _provision(self) -> None:
        for config in self.configs:
            await self._provision_stream(config)
        await self._provision_consumer()
        if await find_info(self._bus, f"STREAM.INFO.{DEAD_STREAM}") is None:
            # A domain shares the dead letters of the broker.
            raise BusError(f"no stream {DEAD_STREAM}: run a forwarder without NATS_DOMAIN too")

    def _report_failure(self, error: Exception) -> None:
        self._health.set_condition(CONDITION, False, str(error))
        log.debug("streams not provisioned yet: %s", error)

    async def _provision_stream(self, config: Info) -> None:
        name = config["name"]
        info = await find_info(self._bus, f"STREAM.INFO.{name}", domain=self._domain)
        if info is None:
            created = await self._fit("CREATE", config)
            log.info("made the stream %s of %d bytes", name, created["max_bytes"])
            return
        existing = info["config"]
        if name not in (EVENTS_STREAM, DEAD_STREAM):  # a bucket may have grown
            config = config | {"max_bytes": max(config["max_bytes"], existing["max_bytes"])}
        if all(existing.get(field) == value for field, value in config.items()):
            return
        try:
            await self._fit("UPDATE", existing | config, bytes_min=existing["max_bytes"])
            log.info("updated the stream %s", name)
        except JetStreamError as refusal:
            # Somebody created it in a way that cannot be changed. It still carries events.
            self._health.record_error(f"the stream {name} stays as it is: {refusal}")

    async def _fit(self, verb: str, config: Info, bytes_min: int = STREAM_BYTES_MIN) -> Info:
        """Create or update a stream as large as the broker's disk allows; return its configuration.

        The broker reserves the bytes that a stream may have. A small stream of events is better
        than none: it only fills while the receiver is unavailable.
        """
        name = config["name"]
        while True:
            try:
                answer = await self._bus.request_api(f"STREAM.{verb}.{name}", config, self._domain)
                return cast(Info, answer["config"])
            except JetStreamError as refusal:
                if _DISK_FULL not in str(refusal):
                    raise
                half = config["max_bytes"] // 2
                if name != EVENTS_STREAM or half < bytes_min:
                    raise JetStreamError(
                        refusal.code,
                        f"the broker's disk has no room for the {config['max_bytes']} bytes of the "
                        f"stream {name}; make room, or set STREAM_BYTES_MAX and DEAD_BYTES_MAX "
                        "lower",
                    ) from None
                config = config | {"max_bytes": half}
                log.warning("the broker's disk has no room: the stream %s has %d bytes", name, half)

    async def _provision_consumer(self) -> None:
        if await self._consumer.find_info() is not None:
            return
        stream = await self._bus.request_api(f"STREAM.INFO.{EVENTS_STREAM}", domain=self._domain)
        first_sequence = self._trimmer.resume_sequence(stream)
        await self._consumer.create(first_sequence)
        log.info("made the consumer %s from sequence %d", self._consumer.name, first_sequence)
