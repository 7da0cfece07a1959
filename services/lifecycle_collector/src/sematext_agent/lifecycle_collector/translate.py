"""The record of a run of the agent, and the events that follow from it."""

from __future__ import annotations

import msgspec

from sematext_agent.shared import AGENT_VERSION
from sematext_agent.shared.events import (
    AgentLifecycle,
    Event,
    Nanoseconds,
    event_id,
    format_rfc3339,
)


class RunRecord(msgspec.Struct, frozen=True):
    """One run of the agent. Times are nanoseconds since the epoch, 0 for none yet."""

    run: str
    identity: str
    """Name of what runs, from which `run` is derived; see `run_name`."""
    started: Nanoseconds
    alive: Nanoseconds
    """Time of the last heartbeat."""
    stopped: Nanoseconds = 0


def continues(record: RunRecord | None, identity: str) -> bool:
    """Return whether a process of that identity belongs to the run of `record`."""
    return record is not None and not record.stopped and record.identity == identity


def begin_record(previous: RunRecord | None, identity: str, now_ns: Nanoseconds) -> RunRecord:
    """Return the record of a run that begins at `now_ns`, after `previous`."""
    return RunRecord(run_name(previous, identity), identity, started=now_ns, alive=now_ns)


def run_name(previous: RunRecord | None, identity: str) -> str:
    """Return the name of a run that begins now, after `previous`.

    It is the identity itself, unless that run is already reported as stopped, because only this
    service was stopped and started again: the name then includes the time of that stop, so that
    the stream does not drop the new events as duplicates.
    """
    if previous is not None and previous.stopped and previous.identity == identity:
        return f"{identity}.{previous.stopped}"
    return identity


def started_event(record: RunRecord, origin: str) -> Event:
    """Return the event for the start of a run."""
    return _event(AgentLifecycle(state="started", run=record.run), record.started, origin)


def stopped_event(record: RunRecord, origin: str) -> Event:
    """Return the event for the stop of a run; without a recorded stop it is an unclean one.

    An unclean stop has the time of the last heartbeat.
    """
    body = AgentLifecycle(state="stopped", run=record.run, clean=bool(record.stopped))
    return _event(body, record.stopped or record.alive, origin)


def _event(body: AgentLifecycle, time_ns: Nanoseconds, origin: str) -> Event:
    return Event(
        id=event_id("lifecycle", origin, body.run, body.state),
        time=format_rfc3339(time_ns),
        origin=origin,
        agent=AGENT_VERSION,
        body=body,
    )
