"""A collector of numbers, run as a process by the tests of the runner.

It counts to COUNT, then waits for its stop; settings make it crash or end on the way.
"""

from __future__ import annotations

from collections.abc import AsyncIterator

from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.events import DockerEvent, Event, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime, run
from sematext_agent.shared.settings import ServiceSettings


class CountingSettings(ServiceSettings, frozen=True, kw_only=True):
    count: int = 100
    crash_at: int = -1
    end_at: int = -1
    large_at: int = -1


def number_event(number: int, origin: str, name: str = "") -> Event:
    body = DockerEvent(type="number", action="counted", actor_id=str(number), labels={"name": name})
    identity = event_id("number", number)
    return Event(id=identity, time=format_rfc3339(number), origin=origin, agent="test", body=body)


async def watch(
    runtime: Runtime[CountingSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    settings = runtime.settings
    runtime.health.set_condition("source", True, "counting")
    for number in range(int(cursor or 0), settings.count):
        if number == settings.crash_at:
            raise ZeroDivisionError("the source broke")
        if number == settings.end_at:
            return
        name = "x" * 300_000 if number == settings.large_at else ""
        yield Observation(number_event(number, runtime.origin, name), b"%d" % (number + 1))
    await runtime.stopping.wait()


if __name__ == "__main__":
    run("counting", collect(watch), CountingSettings)
