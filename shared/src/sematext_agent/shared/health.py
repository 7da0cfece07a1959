"""The health of a service: conditions, figures and metrics; `shared.http_server` shows it."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator

import msgspec
from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Metric,
    ProcessCollector,
    disable_created_metrics,
)

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.clock import SYSTEM_CLOCK, Clock

log = logging.getLogger(__name__)

METRICS_PREFIX = "sematext_agent_"
"""Prefix of every metric; `agent_` alone is also that of other vendors' agents."""
# The times at which counters were created would double the number of series.
disable_created_metrics()  # type: ignore[no-untyped-call]

STALLED_SECONDS = 60
"""Age of the oldest unacknowledged event from which on the service is not ready."""


class Condition(msgspec.Struct, frozen=True):
    """A condition that must hold for a service to be ready, and its state for a person."""

    ok: bool
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """The health of a service as `/readyz` shows it, and as the service answers it on the bus."""

    service: str
    origin: str
    version: str
    ready: bool
    started: float
    """Seconds since the epoch."""
    conditions: dict[str, Condition]
    figures: dict[str, float]
    """Numbers by name: events published, the oldest unacknowledged age …"""
    last_error: str = ""
    last_error_at: float = 0.0
    """Seconds since the epoch."""


class _Registry(CollectorRegistry):
    """A registry that labels every metric with the service, for rules and panels over all."""

    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = {"service": service}

    def collect(self) -> Iterator[Metric]:
        for metric in super().collect():
            metric.samples = [
                sample._replace(labels=self._service | sample.labels) for sample in metric.samples
            ]
            yield metric


class Health:
    """The health of a service. One for each process; the service sets it, others read it."""

    def __init__(self, service: str, origin: str, clock: Clock = SYSTEM_CLOCK) -> None:
        """Begin with the condition `bus`, which does not hold yet."""
        self.service = service
        self.origin = origin
        self._clock = clock
        self.last_error = ""
        self._last_error_at = 0.0
        self.registry = _Registry(service)
        ProcessCollector(registry=self.registry)
        self.started = self._now_seconds()
        self._conditions: dict[str, Condition] = {}
        self._figures: dict[str, Callable[[], float]] = {}
        self._ready = self.add_gauge("ready", "1 while every condition of the service holds.")
        info = self.add_gauge("info", "Always 1, with the origin and version.", "origin", "version")
        info.labels(origin, AGENT_VERSION).set(1)
        self._holds = self.add_gauge("condition", "1 while the condition holds.", "condition")
        self.expect_condition("bus", "connecting")
        self.add_figure(
            "oldest_unacknowledged_seconds",
            "Age of the oldest event that is not safe yet.",
            lambda: 0.0,
        )

    def add_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """Return a new gauge, `sematext_agent_<name>{service=…}`; docs/metrics.md lists all."""
        return Gauge(METRICS_PREFIX + name, text, labels, registry=self.registry)

    def add_counter(self, name: str, text: str, *labels: str) -> Counter:
        """Return a new counter, `sematext_agent_<name>_total{service=…}`."""
        return Counter(METRICS_PREFIX + name, text, labels, registry=self.registry)

    def add_figure(self, name: str, text: str, read: Callable[[], float]) -> None:
        """Add a figure that `read` returns when it is needed: a gauge, and a line of the report."""
        if name not in self._figures:
            self.add_gauge(name, text).set_function(lambda: self._figures[name]())
        self._figures[name] = read

    def expect_condition(self, name: str, detail: str) -> None:
        """Set a condition that does not hold yet, as is usual at a start, without a warning."""
        self._conditions[name] = Condition(False, detail)
        self._holds.labels(name).set(0)

    def set_condition(self, name: str, ok: bool, detail: str) -> None:
        """Set a condition; log each change between good and bad."""
        before = self._conditions.get(name)
        self._conditions[name] = Condition(ok, detail)
        self._holds.labels(name).set(ok)
        if ok != (before is None or before.ok):
            log.log(logging.INFO if ok else logging.WARNING, "%s: %s", name, detail)

    def record_error(self, text: str) -> None:
        """Keep and log the last error, in words for a person."""
        self.last_error, self._last_error_at = text, self._now_seconds()
        log.warning("%s", text)

    def report(self) -> Report:
        """Return the health of the service now."""
        figures = {name: float(read()) for name, read in self._figures.items()}
        conditions = dict(self._conditions)
        age = figures["oldest_unacknowledged_seconds"]
        if age > STALLED_SECONDS:
            conditions["progress"] = Condition(False, f"an event has waited for {age:.0f} s")
        ready = all(condition.ok for condition in conditions.values())
        self._ready.set(ready)
        return Report(
            service=self.service,
            origin=self.origin,
            version=AGENT_VERSION,
            ready=ready,
            started=self.started,
            conditions=conditions,
            figures=figures,
            last_error=self.last_error,
            last_error_at=self._last_error_at,
        )

    def _now_seconds(self) -> float:
        return self._clock.wall_ns() / 1_000_000_000
