"""How the agent is: asked of every service and of the streams, over the bus."""

from __future__ import annotations

import asyncio
import time

import msgspec

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.health import Report
from sematext_agent.shared.stream_reader import find_info, read_backlog
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM, STATUS_SUBJECT

ANSWER_SECONDS = 0.5
"""How long the services may take to answer: they do in milliseconds, or not at all."""
SERVICES_MAX = 200
_LOOKUP_SECONDS = 3.0


class Flow(msgspec.Struct, frozen=True, kw_only=True):
    """What is on its way, from JetStream's own figures."""

    at: float
    """Monotonic seconds."""
    created: str
    """When the stream was made: another one counts from 1 again."""
    first: int
    last: int
    """The numbers of the oldest and the newest event in the stream."""
    messages: int
    bytes: int
    bytes_max: int
    """0 where there is no bound."""
    lag: int | None
    """Events that are not shipped yet; None where no forwarder has ever run."""
    shipped: int
    """How many events of this stream were shipped or made dead letters."""
    dead: int
    """Dead letters."""


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The whole, at one moment."""

    connected: bool
    """Whether the broker is in reach."""
    services: list[Report] = []
    flow: Flow | None = None
    """None before the forwarder has made the streams."""
    arriving: float = 0.0
    """Events a second that collectors told, since the last look."""
    shipping: float = 0.0
    """Events a second that the forwarder finished."""
    now: float = 0.0
    """Seconds since the epoch, by the clock that the ages are counted by."""


async def ask(bus: Bus, before: Overview | None) -> Overview:
    """How the agent is now. Raises BusError, or TimeoutError, where the broker goes away."""
    if not bus.is_connected:
        return Overview(connected=False, now=time.time())
    async with asyncio.timeout(ANSWER_SECONDS + _LOOKUP_SECONDS):
        answers = await bus.request_all(STATUS_SUBJECT, ANSWER_SECONDS)
        flow = await _flow(bus)
    services = [report for report in map(_report, answers[:SERVICES_MAX]) if report is not None]
    services.sort(key=lambda report: (report.origin, report.service))
    arriving = shipping = 0.0
    earlier = before.flow if before else None
    if flow and earlier and flow.created == earlier.created:
        seconds = max(0.1, flow.at - earlier.at)
        arriving = max(0, flow.last - earlier.last) / seconds
        shipping = max(0, flow.shipped - earlier.shipped) / seconds
    return Overview(
        connected=True,
        services=services,
        flow=flow,
        arriving=arriving,
        shipping=shipping,
        now=time.time(),
    )


def _report(answer: bytes) -> Report | None:
    """One service's answer; None for something else that listens on the subject."""
    try:
        return msgspec.json.decode(answer, type=Report)
    except DECODE_ERRORS:
        return None


async def _flow(bus: Bus) -> Flow | None:
    events = await find_info(bus, f"STREAM.INFO.{EVENTS_STREAM}")
    if events is None:
        return None
    behind = await read_backlog(bus)
    lag = behind.total if behind else None
    dead = await find_info(bus, f"STREAM.INFO.{DEAD_STREAM}")
    state = events["state"]
    return Flow(
        at=time.monotonic(),
        created=events["created"],
        first=state["first_seq"],
        last=state["last_seq"],
        messages=state["messages"],
        bytes=state["bytes"],
        bytes_max=max(0, events["config"]["max_bytes"]),
        lag=lag,
        shipped=state["last_seq"] - lag if lag is not None else 0,
        dead=dead["state"]["messages"] if dead else 0,
    )
