"""A stub of a collector: it publishes one event at each start, named after its process."""

import os
from collections.abc import AsyncIterator

from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.events import DockerEvent, Event, format_rfc3339
from sematext_agent.shared.service import Runtime, run
from sematext_agent.shared.settings import ServiceSettings


async def watch(
    runtime: Runtime[ServiceSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    name = f"stub-{os.getpid()}"
    body = DockerEvent(
        type="container", action="start", actor_id="0" * 64, attributes={"name": name}
    )
    yield Observation(
        Event(id=name, time=format_rfc3339(0), origin=runtime.origin, agent="1", body=body)
    )
    await runtime.stopping.wait()


run("docker", collect(watch), ServiceSettings)
