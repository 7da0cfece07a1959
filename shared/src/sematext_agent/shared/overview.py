"""The state of the whole agent: reports of its services and figures of delivery, over the bus.

`agentctl status` and the live page show the same overview.
"""

from __future__ import annotations

import asyncio

import msgspec

from sematext_agent.shared.bus import Bus, BusError
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.health import Report
from sematext_agent.shared.stream_reader import find_info, read_backlog
from sematext_agent.shared.subjects import DEAD_STREAM, EVENTS_STREAM, STATUS_SUBJECT

ANSWER_SECONDS = 0.5
"""Time in which services may answer; they need milliseconds."""
REPORTS_MAX = 200
_LOOKUP_SECONDS_MAX = 3.0
_RATE_SECONDS_MIN = 0.1


class DeliveryFigures(msgspec.Struct, frozen=True, kw_only=True):
    """Counts of stored, delivered and dead-lettered events, from JetStream."""

    monotonic_seconds: float
    """Time of the reading, by the monotonic clock of the reader."""
    created: str
    """Creation time of the stream of events; sequences of another stream begin again at 1."""
    first_sequence: int
    last_sequence: int
    events: int
    """Events in the stream."""
    bytes: int
    bytes_max: int
    """Bound of the stream; 0 for none."""
    lag: int | None
    """Events that are not delivered yet; None before the first start of a forwarder."""
    in_flight: int
    """Those of them that a forwarder is delivering."""
    dead_letters: int | None
    """Events in the dead-letter stream; None before that stream exists."""

    @property
    def finished(self) -> int:
        """Events of this stream that were delivered or dead-lettered."""
        return self.last_sequence - self.lag if self.lag is not None else 0


class Overview(msgspec.Struct, frozen=True, kw_only=True):
    """The state of the agent at one moment."""

    connected: bool
    """True while the broker can be reached."""
    now: float
    """Seconds since the epoch, by the clock that ages are computed with."""
    reports: list[Report] = []
    """One report for each service, by origin and name of the service."""
    delivery: DeliveryFigures | None = None
    """None before the forwarder has created the stream of events."""


class DeliveryRates(msgspec.Struct, frozen=True):
    """Events a second between two overviews."""

    arriving: float = 0.0
    """Events that collectors stored."""
    delivering: float = 0.0
    """Events that the forwarder delivered or dead-lettered."""


async def read_overview(bus: Bus, clock: Clock = SYSTEM_CLOCK) -> Overview:
    """Ask all services and JetStream, and return their answers.

    Raises:
        BusError: the broker went away, or did not answer in time.
    """
    if not bus.is_connected:
        return disconnected_overview(clock)
    try:
        async with asyncio.timeout(ANSWER_SECONDS + _LOOKUP_SECONDS_MAX):
            answers = await bus.request_all(STATUS_SUBJECT, ANSWER_SECONDS)
            delivery = await _read_delivery(bus, clock)
    except TimeoutError:
        raise BusError("no answer of JetStream in time") from None
    reports = [report for report in map(decode_report, answers[:REPORTS_MAX]) if report is not None]
    return Overview(
        connected=True,
        now=clock.wall_ns() / 1e9,
        reports=sorted(reports, key=lambda report: (report.origin, report.service)),
        delivery=delivery,
    )


def disconnected_overview(clock: Clock = SYSTEM_CLOCK) -> Overview:
    """Return the overview while the broker is away."""
    return Overview(connected=False, now=clock.wall_ns() / 1e9)


def compute_rates(before: Overview, after: Overview) -> DeliveryRates:
    """Return the rates between two overviews; zeros unless both are of the same stream."""
    earlier, later = before.delivery, after.delivery
    if earlier is None or later is None or earlier.created != later.created:
        return DeliveryRates()
    seconds = max(_RATE_SECONDS_MIN, later.monotonic_seconds - earlier.monotonic_seconds)
    return DeliveryRates(
        arriving=max(0, later.last_sequence - earlier.last_sequence) / seconds,
        delivering=max(0, later.finished - earlier.finished) / seconds,
    )


def decode_report(answer: bytes) -> Report | None:
    """Return the report in an answer, or None if something else answers on the subject."""
    try:
        return msgspec.json.decode(answer, type=Report)
    except DECODE_ERRORS:
        return None


async def _read_delivery(bus: Bus, clock: Clock) -> DeliveryFigures | None:
    events = await find_info(bus, f"STREAM.INFO.{EVENTS_STREAM}")
    if events is None:
        return None
    backlog = await read_backlog(bus)
    dead_letters = await find_info(bus, f"STREAM.INFO.{DEAD_STREAM}")
    state = events["state"]
    return DeliveryFigures(
        monotonic_seconds=clock.monotonic(),
        created=events["created"],
        first_sequence=state["first_seq"],
        last_sequence=state["last_seq"],
        events=state["messages"],
        bytes=state["bytes"],
        bytes_max=max(0, events["config"]["max_bytes"]),
        lag=backlog.total if backlog is not None else None,
        in_flight=backlog.in_flight if backlog is not None else 0,
        dead_letters=dead_letters["state"]["messages"] if dead_letters is not None else None,
    )
