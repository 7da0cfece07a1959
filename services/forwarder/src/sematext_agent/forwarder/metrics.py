"""The metrics of the deliveries; docs/metrics.md lists all of them."""

from __future__ import annotations

from sematext_agent.forwarder.flow_control import FlowControl
from sematext_agent.forwarder.in_flight import InFlight
from sematext_agent.forwarder.latency import Latency
from sematext_agent.shared.clock import Clock
from sematext_agent.shared.health import METRICS_PREFIX, Health


class DeliveryMetrics:
    """The counters that the parts of the pipeline raise."""

    def __init__(self, health: Health) -> None:
        """Register the metrics."""
        self.delivered = health.add_counter(
            "events_delivered", "Events that the receiver has taken."
        )
        self.retried = health.add_counter(
            "posts_retried", "Posts of an event after its first post."
        )
        self.dead_lettered = health.add_counter(
            "events_dead_lettered", "Events stored in the dead-letter stream.", "reason"
        )
        self.deduplicated = health.add_counter(
            "events_deduplicated", "Duplicate messages that were not sent again."
        )
        self.released = health.add_counter(
            "events_released", "Events left to the stream because the lease on them expired."
        )
        self.latency = Latency(
            f"{METRICS_PREFIX}delivery_latency_seconds",
            "Time from an event at its source to the receiver's answer.",
        )
        health.registry.register(self.latency)


def add_figures(health: Health, in_flight: InFlight, flow: FlowControl, clock: Clock) -> None:
    """Add the figures that are read when somebody asks for them."""

    def oldest_age_seconds() -> float:
        oldest = next(iter(in_flight), None)
        return clock.monotonic() - oldest.received_at if oldest else 0.0

    limiter, breaker = flow.limiter, flow.breaker
    health.add_figure("events_in_flight", "Events being delivered.", lambda: len(in_flight))
    health.add_figure(
        "events_in_flight_bytes",
        "Bytes of the messages and documents of the events being delivered.",
        lambda: in_flight.bytes,
    )
    health.add_figure("posts_in_flight", "Posts without an answer yet.", lambda: limiter.in_flight)
    health.add_figure("posts_in_flight_limit", "Posts allowed at once.", lambda: int(limiter.limit))
    health.add_figure(
        "circuit_open",
        "1 while the circuit breaker is open or half-open.",
        lambda: not breaker.is_closed,
    )
    health.add_figure(
        "oldest_unacknowledged_seconds",
        "Time since the oldest event being delivered arrived.",
        oldest_age_seconds,
    )
