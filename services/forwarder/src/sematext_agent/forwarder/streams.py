"""The streams, the buckets and the consumer, which the forwarder owns.

Written in the JSON of JetStream's own API (https://docs.nats.io/reference/reference-protocols/
nats_api_reference). What vanishes is made again, and what was shipped is trimmed, because the
stream refuses new events when it is full: only what is not shipped may fill it.

With a domain they are those of a leaf node, which has no forwarder of its own: its events stay
there until they are shipped, and only its dead letters go to the stream DEAD of the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from typing import Any, cast

from sematext_agent.forwarder.bounds import Bounds
from sematext_agent.forwarder.consumers import consumer_config
from sematext_agent.forwarder.overtaking import HANDOVER_SECONDS, Overtaking
from sematext_agent.forwarder.settings import STREAM_BYTES_MIN, ForwarderSettings
from sematext_agent.shared.bus import Bus, BusError, JetStreamError
from sematext_agent.shared.events import EVENT_BYTES_MAX, NS_PER_SECOND
from sematext_agent.shared.health import Health
from sematext_agent.shared.retry import Backoff
from sematext_agent.shared.stream_reader import compute_backlog, find_info
from sematext_agent.shared.subjects import (
    CURSORS_BUCKET,
    DEAD_STREAM,
    DEAD_SUBJECTS,
    EVENTS_STREAM,
    EVENTS_SUBJECTS,
    FORWARDER_CONSUMER,
    HOSTS_BUCKET,
    consumer_name,
)

log = logging.getLogger(__name__)

Config = dict[str, Any]

DUPLICATE_WINDOW_SECONDS = 15 * 60
HISTORY_EVENTS_MIN = 10_000
"""So many of the last events stay for taps, shipped or not, while there is room."""
HEADER_BYTES_MAX = 8 * 1024
HOSTS_BYTES_MAX = 64 * 1024 * 1024
LOOK_SECONDS = 2.0
IDLE_LOOKS = 5
"""So many times longer is the pause while nothing comes: a look is four requests to the broker."""
_NOT_FOUND = 404
_NO_ROOM = "insufficient storage"
_CONDITION = "streams"


def stream_configs(settings: ForwarderSettings) -> list[Config]:
    """What the streams must be like, the two buckets included."""
    common: Config = {
        "retention": "limits",
        "storage": "file",
        "num_replicas": settings.stream_replicas,
        "max_msg_size": EVENT_BYTES_MAX + HEADER_BYTES_MAX,
        "duplicate_window": DUPLICATE_WINDOW_SECONDS * NS_PER_SECOND,
        "allow_direct": True,
    }
    events = common | {
        "name": EVENTS_STREAM,
        "subjects": [EVENTS_SUBJECTS],
        "max_bytes": settings.stream_bytes_max,
        # A refused publish holds its collector at its cursor, where a forgotten event were lost.
        "discard": "new",
    }
    dead = common | {
        "name": DEAD_STREAM,
        "subjects": [DEAD_SUBJECTS],
        "max_bytes": settings.dead_bytes_max,
        # What was published without any header still fits when the reason is added to it.
        "max_msg_size": EVENT_BYTES_MAX + 2 * HEADER_BYTES_MAX,
        "discard": "old",
    }
    buckets = [
        _bucket(CURSORS_BUCKET, settings.cursors_bytes_max, settings.stream_replicas),
        _bucket(HOSTS_BUCKET, HOSTS_BYTES_MAX, settings.stream_replicas),
    ]
    # The large one last: it takes what the disk has left.
    return [*buckets, *([] if settings.nats_domain else [dead]), events]


def _bucket(name: str, bytes_max: int, replicas: int) -> Config:
    """A key-value bucket is a stream of a certain form: NATS' ADR-8."""
    return {
        "name": f"KV_{name}",
        "subjects": [f"$KV.{name}.>"],
        "retention": "limits",
        "storage": "file",
        "num_replicas": replicas,
        "max_bytes": bytes_max,
        "max_msgs_per_subject": 1,
        "discard": "new",
        "allow_rollup_hdrs": True,
        "deny_delete": True,
        "allow_direct": True,
    }


class Streams:
    """Keeps the streams as they must be, and knows how full and how far behind they are."""

    def __init__(self, bus: Bus, settings: ForwarderSettings, health: Health) -> None:
        self._bus = bus
        self._domain = settings.nats_domain
        self._configs = stream_configs(settings)
        self._consumer = consumer_name(FORWARDER_CONSUMER, self._domain)
        self.puller = bus.create_puller(EVENTS_STREAM, self._consumer, 0, self._domain)
        """Of all events in their order; asks for none until it is given room by `resize`."""
        self.overtaking = Overtaking(bus, self._domain, self.puller, health)
        self._bytes_max = settings.stream_bytes_max
        self._health = health
        self._created = ""  # when the stream of events was: another one counts from 1 again
        self._first_unshipped = 1
        # When which events had been shipped: (monotonic seconds, the first sequence not shipped).
        self._shipped: deque[tuple[float, int]] = deque()
        self.lag = 0
        """Events in the stream that are not shipped yet."""
        self._bytes = self._dead_letters = self._last_sequence = 0
        self._is_idle = False
        self._bounds = Bounds(bus, health)
        self.made = asyncio.Event()
        """Set once they have been made for the first time."""
        health.expect_condition(_CONDITION, "not made yet")
        health.add_figure("lag_events", "Events in the stream not shipped yet.", lambda: self.lag)
        health.add_figure("stream_bytes", "Bytes in the stream of events.", lambda: self._bytes)
        health.add_figure(
            "stream_limit_bytes", "At which the stream is full.", lambda: self._bytes_max
        )
        health.add_figure("dead_letters", "Events in the stream DEAD.", lambda: self._dead_letters)

    async def make(self) -> None:
        """Makes whatever is missing and updates what differs; tries until that is done."""
        backoff = Backoff(0.2, 10)
        while True:
            try:
                for config in self._configs:
                    await self._make_stream(config)
                await self._make_consumer()
                await self._dead_letters_are_kept()
                break
            except BusError as error:
                self._health.set_condition(_CONDITION, False, str(error))
                log.debug("%s", error)
                await asyncio.sleep(backoff.draw_delay_seconds())
        self._health.set_condition(_CONDITION, True, "made")

    async def _api(self, call: str, request: Config | None = None) -> Config:
        return await self._bus.request_api(call, request, self._domain)

    async def _dead_letters_are_kept(self) -> None:
        """Raises BusError where there is no place for dead letters, which a domain shares."""
        if await find_info(self._bus, f"STREAM.INFO.{DEAD_STREAM}") is None:
            raise BusError(f"no stream {DEAD_STREAM}: run a forwarder without NATS_DOMAIN too")

    async def _make_stream(self, config: Config) -> None:
        name = config["name"]
        found = await find_info(self._bus, f"STREAM.INFO.{name}", domain=self._domain)
        if found is None:
            made = await self._fit("CREATE", config)
            log.info("made the stream %s of %d bytes", name, made["max_bytes"])
            return
        existing = found["config"]
        if name not in (EVENTS_STREAM, DEAD_STREAM):  # a bucket may have grown
            config = config | {"max_bytes": max(config["max_bytes"], existing["max_bytes"])}
        if all(existing.get(field) == value for field, value in config.items()):
            return
        try:
            await self._fit("UPDATE", existing | config, at_least=existing["max_bytes"])
            log.info("updated the stream %s", name)
        except JetStreamError as refusal:
            # Somebody made it in a way that cannot be changed. It still carries events.
            self._health.record_error(f"the stream {name} stays as it is: {refusal}")

    async def _fit(self, call: str, config: Config, at_least: int = STREAM_BYTES_MIN) -> Config:
        """Makes or updates a stream as large as the broker's disk lets it be; returns what it made.

        The broker lays aside what a stream may hold. Of the stream of events it is better to have
        a small one than none: it is bound to be full only while the receiver is away.
        """
        name = config["name"]
        while True:
            try:
                answer = await self._api(f"STREAM.{call}.{name}", config)
                return cast(Config, answer["config"])
            except JetStreamError as refusal:
                if _NO_ROOM not in str(refusal):
                    raise
                half = config["max_bytes"] // 2
                if name != EVENTS_STREAM or half < at_least:
                    raise JetStreamError(
                        refusal.code,
                        f"the broker's disk has no room for the {config['max_bytes']} bytes of the "
                        f"stream {name}; make room, or set STREAM_BYTES_MAX and DEAD_BYTES_MAX "
                        "lower",
                    ) from None
                config = config | {"max_bytes": half}
                log.warning("the broker's disk has no room: the stream %s has %d bytes", name, half)

    async def _make_consumer(self) -> None:
        info = f"CONSUMER.INFO.{EVENTS_STREAM}.{self._consumer}"
        if await find_info(self._bus, info, domain=self._domain) is not None:
            return
        stream = await self._api(f"STREAM.INFO.{EVENTS_STREAM}")
        if stream["created"] != self._created:
            self._forget(stream["created"])
        await self._api(
            f"CONSUMER.CREATE.{EVENTS_STREAM}.{self._consumer}",
            {
                "stream_name": EVENTS_STREAM,
                "config": consumer_config(self._first_unshipped, self._consumer),
            },
        )
        log.info("made the consumer %s from sequence %d", self._consumer, self._first_unshipped)

    def _forget(self, created: str) -> None:
        self._created = created
        self._first_unshipped = 1
        self._shipped.clear()

    async def keep(self) -> None:
        """Looks after the streams for ever, and at once when the puller misses its consumer."""
        await self.make()
        await self.overtaking.learn()
        self.made.set()
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(self._pause_seconds()):
                    await self.puller.consumer_missing.wait()
            if self.puller.consumer_missing.is_set() or not await self._look():
                await self.make()
                self.puller.consumer_missing.clear()
                # What it has asked for went with the consumer that it asked.
                self.puller.renew_request()

    def _pause_seconds(self) -> float:
        if self.overtaking.is_near_its_end:
            return HANDOVER_SECONDS
        return LOOK_SECONDS * (IDLE_LOOKS if self._is_idle else 1)

    async def _look(self) -> bool:
        """Trims the stream and notes how it is; False where something has to be made."""
        try:
            names = (await self._api("STREAM.NAMES")).get("streams") or []
            if missing := {config["name"] for config in self._configs} - set(names):
                raise JetStreamError(_NOT_FOUND, f"{', '.join(sorted(missing))} vanished")
            stream = await self._api(f"STREAM.INFO.{EVENTS_STREAM}")
            consumer = await self._api(f"CONSUMER.INFO.{EVENTS_STREAM}.{self._consumer}")
            dead = await self._bus.request_api(f"STREAM.INFO.{DEAD_STREAM}")
            self._bytes_max = stream["config"]["max_bytes"]
            await self._trim(stream, consumer)
            await self._bounds.look(dead)
            await self.overtaking.look(stream, consumer)
        except JetStreamError as refusal:
            self._health.set_condition(_CONDITION, False, str(refusal))
            return False
        except BusError as error:
            # The broker is away, which is said elsewhere; of a leaf node only this knows.
            if self._domain:
                self._health.set_condition(_CONDITION, False, f"{self._domain} is away: {error}")
            log.debug("%s", error)
            return True
        self.lag = compute_backlog(consumer, self.overtaking.info).total
        last, self._last_sequence = self._last_sequence, stream["state"]["last_seq"]
        self._is_idle = not self.lag and last == self._last_sequence
        self._bytes = stream["state"]["bytes"]
        self._dead_letters = dead["state"]["messages"]
        full = self._bytes / self._bytes_max
        self._health.set_condition(
            _CONDITION, True, f"{full:.0%} full, {self.lag} events not shipped yet"
        )
        return True

    async def _trim(self, stream: Config, consumer: Config) -> None:
        """Drops shipped events: those older than the duplicate window, or all when room is short.

        The stream's own duplicates are found, after a restart of the broker, among what it stores.
        """
        if stream["created"] != self._created:
            self._forget(stream["created"])
        state = stream["state"]
        self._first_unshipped = consumer["ack_floor"]["stream_seq"] + 1
        now = time.monotonic()
        self._shipped.append((now, self._first_unshipped))
        first_kept = state["first_seq"]
        while self._shipped and self._shipped[0][0] < now - DUPLICATE_WINDOW_SECONDS:
            first_kept = self._shipped.popleft()[1]
        first_kept = min(first_kept, state["last_seq"] + 1 - HISTORY_EVENTS_MIN)
        if state["bytes"] > self._bytes_max // 2:
            first_kept = self._first_unshipped
        if first_kept > state["first_seq"]:
            await self._api(f"STREAM.PURGE.{EVENTS_STREAM}", {"seq": first_kept})
            log.debug("trimmed the stream up to sequence %d", first_kept)
