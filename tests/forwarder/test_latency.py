"""The histogram is the one that prometheus_client would have made."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from sematext_agent.forwarder.latency import BOUNDS_SECONDS, Latency

_seconds = st.floats(0, 1e6) | st.sampled_from(BOUNDS_SECONDS)


def samples(registry: CollectorRegistry) -> set[str]:
    lines = generate_latest(registry).decode().splitlines()
    return {line for line in lines if "_created" not in line}


@given(st.lists(_seconds, max_size=30))
def test_it_equals_the_librarys_histogram(observed: list[float]) -> None:
    registry, expected = CollectorRegistry(), CollectorRegistry()
    latency = Latency("a", "text")
    registry.register(latency)
    histogram = Histogram("a", "text", buckets=BOUNDS_SECONDS, registry=expected)
    for seconds in observed:
        latency.observe(seconds)
        histogram.observe(seconds)
    assert samples(registry) == samples(expected)
