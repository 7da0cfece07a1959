"""The latency from an event's source to the receiver's answer, as a histogram for Prometheus.

prometheus_client's own histogram takes a lock for each observation, which was 10 % of the
forwarder's CPU. This one counts in a list and converts it when Prometheus scrapes.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from itertools import accumulate

from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

BOUNDS_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 60, 600, 3600)


class Latency(Collector):
    """A histogram of seconds: register it, then `observe`."""

    def __init__(self, name: str, text: str) -> None:
        """Begin empty, with the metric's name and help text."""
        self._name = name
        self._text = text
        self._counts = [0] * (len(BOUNDS_SECONDS) + 1)
        self._sum = 0.0

    def observe(self, seconds: float) -> None:
        """Count one event that took `seconds`."""
        self._counts[bisect_left(BOUNDS_SECONDS, seconds)] += 1
        self._sum += seconds

    def collect(self) -> Iterator[HistogramMetricFamily]:
        """Yield the histogram in Prometheus' form, where each bucket includes the lower ones."""
        bounds = [*(str(float(bound)) for bound in BOUNDS_SECONDS), "+Inf"]
        buckets = list(zip(bounds, accumulate(self._counts), strict=True))
        yield HistogramMetricFamily(self._name, self._text, buckets, self._sum)
