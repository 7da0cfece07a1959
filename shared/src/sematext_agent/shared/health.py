"""What a service knows of itself: conditions, figures, metrics; `shared.http_server` shows it."""

from __future__ import annotations

import logging
import time
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

log = logging.getLogger(__name__)

METRICS_PREFIX = "sematext_agent_"
"""Before the name of every metric; not only `agent_`, as other vendors' agents have theirs."""
# A series for the time of each counter's making: twice as many series, and nobody asks for them.
disable_created_metrics()  # type: ignore[no-untyped-call]

STALLED_SECONDS = 60
"""How long the oldest unacknowledged event may wait before the service is not ready."""


class Condition(msgspec.Struct, frozen=True):
    """One thing that must hold for a service to be ready, and its state in words."""

    ok: bool
    detail: str


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """How a service is: what `/readyz` answers, and what it answers on the bus."""

    service: str
    origin: str
    version: str
    ready: bool
    started: float
    """Seconds since the epoch."""
    conditions: dict[str, Condition]
    figures: dict[str, float]
    """What can be counted: events published, the oldest unacknowledged age …"""
    last_error: str = ""
    last_error_at: float = 0.0
    """Seconds since the epoch."""


class _Registry(CollectorRegistry):
    """Says of every metric whose it is, so that one rule or one panel reads all services."""

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
    """What a service knows of itself. One a process; the service sets, others read."""

    def __init__(self, service: str, origin: str) -> None:
        self.service = service
        self.origin = origin
        self.last_error = ""
        self._last_error_at = 0.0
        self.registry = _Registry(service)
        ProcessCollector(registry=self.registry)
        self.started = time.time()
        self._conditions: dict[str, Condition] = {}
        self._figures: dict[str, Callable[[], float]] = {}
        self._ready = self.add_gauge("ready", "1 while every condition of the service holds.")
        info = self.add_gauge("info", "Always 1: who tells this.", "origin", "version")
        info.labels(origin, AGENT_VERSION).set(1)
        self._holds = self.add_gauge("condition", "1 while the condition holds.", "condition")
        self.expect_condition("bus", "connecting")
        self.add_figure(
            "oldest_unacknowledged_seconds",
            "Age of the oldest event that is not safe yet.",
            lambda: 0.0,
        )

    def add_gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge, `sematext_agent_<name>{service=…}`; docs/metrics.md lists them all."""
        return Gauge(METRICS_PREFIX + name, text, labels, registry=self.registry)

    def add_counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter, `sematext_agent_<name>_total{service=…}`."""
        return Counter(METRICS_PREFIX + name, text, labels, registry=self.registry)

    def add_figure(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that is read when asked for: a gauge, and a line of the report."""
        if name not in self._figures:
            self.add_gauge(name, text).set_function(lambda: self._figures[name]())
        self._figures[name] = read

    def expect_condition(self, name: str, detail: str) -> None:
        """States what does not hold yet, as is usual at a start, and so is not worth a warning."""
        self._conditions[name] = Condition(False, detail)
        self._holds.labels(name).set(0)

    def set_condition(self, name: str, ok: bool, detail: str) -> None:
        """States a condition; whenever it turns bad or good again, that is logged."""
        before = self._conditions.get(name)
        self._conditions[name] = Condition(ok, detail)
        self._holds.labels(name).set(ok)
        if ok != (before is None or before.ok):
            log.log(logging.INFO if ok else logging.WARNING, "%s: %s", name, detail)

    def record_error(self, text: str) -> None:
        """Keeps and logs the last thing that went wrong, in words."""
        self.last_error, self._last_error_at = text, time.time()
        log.warning("%s", text)

    def report(self) -> Report:
        """How the service is now."""
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
