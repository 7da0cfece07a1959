"""Delivered events stay in the stream for the duplicate window, unless space is short."""

from __future__ import annotations

from typing import Any

from virtual_time import ManualClock

from sematext_agent.forwarder.stream_configs import DUPLICATE_WINDOW_SECONDS
from sematext_agent.forwarder.trimmer import HISTORY_EVENTS_MIN, Trimmer


class BusStub:
    """Keeps the first sequence that each purge leaves."""

    def __init__(self) -> None:
        self.first_kept: list[int] = []

    async def request_api(self, call: str, request: dict[str, int], domain: str) -> None:
        assert call == "STREAM.PURGE.EVENTS"
        self.first_kept.append(request["seq"])


async def test_a_delivered_event_is_trimmed_after_the_duplicate_window() -> None:
    bus: Any = BusStub()
    clock = ManualClock()
    trimmer = Trimmer(bus, "", clock)
    delivered = 500
    state = {"first_seq": 1, "last_seq": 10 * HISTORY_EVENTS_MIN, "bytes": 1}
    stream = {"created": "now", "state": state, "config": {"max_bytes": 100}}
    consumer = {"ack_floor": {"stream_seq": delivered}}
    await trimmer.trim(stream, consumer)
    clock.advance(DUPLICATE_WINDOW_SECONDS - 1)
    await trimmer.trim(stream, consumer)
    assert bus.first_kept == []
    clock.advance(2)
    await trimmer.trim(stream, consumer)
    assert bus.first_kept == [delivered + 1]
