"""What a service knows of itself: conditions, figures, metrics; `shared.pages` shows it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

import msgspec
from prometheus_client import CollectorRegistry, Counter, Gauge

from shared import AGENT_VERSION

log = logging.getLogger(__name__)

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


class Health:
    """What a service knows of itself. One a process; the service sets, others read."""

    def __init__(self, service: str, origin: str) -> None:
        self.service = service
        self.origin = origin
        self.last_error = ""
        self._last_error_at = 0.0
        self.registry = CollectorRegistry()
        self.started = time.time()
        self._conditions: dict[str, Condition] = {}
        self._figures: dict[str, Callable[[], float]] = {}
        self._ready = self.gauge("ready", "1 while every condition of the service holds.")
        self.gauge("info", "The agent's version.", "version").labels(AGENT_VERSION).set(1)
        self.expect("bus", "connecting")
        self.figure(
            "oldest_unacknowledged_seconds", "Age of the oldest event that is not safe yet.",
            lambda: 0.0,
        )  # fmt: skip

    def gauge(self, name: str, text: str, *labels: str) -> Gauge:
        """A gauge of this service, `agent_<service>_<name>`."""
        return Gauge(name, text, labels, "agent", self.service, registry=self.registry)

    def counter(self, name: str, text: str, *labels: str) -> Counter:
        """A counter of this service, `agent_<service>_<name>_total`."""
        return Counter(name, text, labels, "agent", self.service, registry=self.registry)

    def figure(self, name: str, text: str, read: Callable[[], float]) -> None:
        """A figure that is read when asked for: a gauge, and a line of the report."""
        if name not in self._figures:
            self.gauge(name, text).set_function(lambda: self._figures[name]())
        self._figures[name] = read

    def expect(self, name: str, detail: str) -> None:
        """States what does not hold yet, as is usual at a start, and so is not worth a warning."""
        self._conditions[name] = Condition(False, detail)

    def set(self, name: str, ok: bool, detail: str) -> None:
        """States a condition; whenever it turns bad or good again, that is logged."""
        before = self._conditions.get(name)
        self._conditions[name] = Condition(ok, detail)
        if ok != (before is None or before.ok):
            log.log(logging.INFO if ok else logging.WARNING, "%s: %s", name, detail)

    def error(self, text: str) -> None:
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
            service=self.service, origin=self.origin, version=AGENT_VERSION, ready=ready,
            started=self.started, conditions=conditions, figures=figures,
            last_error=self.last_error, last_error_at=self._last_error_at,
        )  # fmt: skip
