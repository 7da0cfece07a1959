"""A collector whose source is a file: a log with a line per event, `<number> <time> <bytes>`.

`python -m chaos.numbered` follows the file NUMBERED_LOG with the runner, window and cursor of every
collector. An event depends on its line alone, so the oracle can compute its id and its document.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

from sematext_agent.shared.collector import Observation, collect
from sematext_agent.shared.events import DockerEvent, Event, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime, run
from sematext_agent.shared.settings import ServiceSettings

_LOOK_SECONDS = 0.02


class NumberedSettings(ServiceSettings, frozen=True, kw_only=True):
    numbered_log: str


def event_of(line: bytes) -> Event:
    """Return the event of a line of the log."""
    number, time_ns, size = line.split()
    body = DockerEvent(
        type="container",
        action="start",
        actor_id=event_id("container", number),
        attributes={"name": f"numbered-{number.decode()}", "filler": "x" * int(size)},
    )
    return Event(
        id=event_id("numbered", number),
        time=format_rfc3339(int(time_ns)),
        origin="chaos",
        agent="1",
        body=body,
    )


async def watch(
    runtime: Runtime[NumberedSettings], cursor: bytes | None
) -> AsyncIterator[Observation]:
    """Yield every event of the log from the cursor on, which is an offset in the file."""
    offset = int(cursor or 0)
    with open(runtime.settings.numbered_log, "rb") as log:  # noqa: ASYNC230 - a local file
        log.seek(offset)
        while not runtime.stopping.is_set():
            line = log.readline()
            if line.endswith(b"\n"):
                offset += len(line)
                yield Observation(event_of(line), b"%d" % offset)
            else:
                log.seek(offset)
                await asyncio.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    run("numbered", collect(watch), NumberedSettings)
