"""The durable consumers on the stream of events."""

from __future__ import annotations

from typing import Any

from sematext_agent.shared.bus import Bus, Puller
from sematext_agent.shared.events import NS_PER_SECOND
from sematext_agent.shared.stream_reader import find_info
from sematext_agent.shared.subjects import EVENTS_STREAM, FORWARDER_CONSUMER, consumer_name

Info = dict[str, Any]
"""A request or an answer of JetStream's API, as JSON."""

ACK_WAIT_SECONDS = 15
"""The ack deadline: JetStream redelivers a message that was neither acknowledged nor extended."""
MAX_ACK_PENDING = 2048
"""Bound of the unacknowledged events of all forwarders together."""


def consumer_config(first_sequence: int, name: str = FORWARDER_CONSUMER) -> Info:
    """Return the configuration of a durable consumer that begins at `first_sequence`."""
    config: Info = {
        "durable_name": name,
        "name": name,
        "deliver_policy": "all",
        "ack_policy": "explicit",
        "ack_wait": ACK_WAIT_SECONDS * NS_PER_SECOND,
        # The forwarder counts the attempts: JetStream would hide a message at a limit of its own.
        "max_deliver": -1,
        "max_ack_pending": MAX_ACK_PENDING,
        "max_waiting": 512,
    }
    if first_sequence > 1:
        config |= {"deliver_policy": "by_start_sequence", "opt_start_seq": first_sequence}
    return config


class DurableConsumer:
    """One durable consumer of the stream of events, by JetStream's API.

    Every method raises BusError where the broker does not answer or refuses.
    """

    def __init__(self, bus: Bus, name: str, domain: str) -> None:
        """Address the consumer `name` in the JetStream domain, or in the broker's own for ""."""
        self._bus = bus
        self._domain = domain
        self.name = consumer_name(name, domain)

    async def find_info(self) -> Info | None:
        """Return its information, or None where it does not exist."""
        return await find_info(self._bus, self._call("INFO"), domain=self._domain)

    async def request_info(self) -> Info:
        """Return its information; raise JetStreamError where it does not exist."""
        return await self._bus.request_api(self._call("INFO"), domain=self._domain)

    async def create(self, first_sequence: int, *, is_exclusive: bool = False) -> None:
        """Create it; where `is_exclusive`, raise JetStreamError if it exists with another start."""
        request: Info = {
            "stream_name": EVENTS_STREAM,
            "config": consumer_config(first_sequence, self.name),
        }
        if is_exclusive:
            request["action"] = "create"
        await self._bus.request_api(self._call("CREATE"), request, self._domain)

    async def delete(self) -> None:
        """Delete it."""
        await self._bus.request_api(self._call("DELETE"), domain=self._domain)

    def create_puller(self) -> Puller:
        """Return a puller that asks for nothing until it is given a window by `resize`."""
        return self._bus.create_puller(EVENTS_STREAM, self.name, 0, self._domain)

    def _call(self, verb: str) -> str:
        return f"CONSUMER.{verb}.{EVENTS_STREAM}.{self.name}"
