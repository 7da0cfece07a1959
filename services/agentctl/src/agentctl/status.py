"""`agentctl status`: one screen that says how every part is, asked for on the bus."""

from __future__ import annotations

import argparse
import time

import msgspec

from agentctl.reaching import broker
from shared.bus import Bus
from shared.health import Report
from shared.logs import escape
from shared.streams import lookup
from shared.subjects import DEAD_STREAM, EVENTS_STREAM, FORWARDER, STATUS
from shared.words import size, span

ANSWER_SECONDS = 0.5
"""How long the parts may take to answer: they do in milliseconds, or not at all."""


async def show(options: argparse.Namespace) -> int:
    """Prints the screen. Returns 1 where something is not ready."""
    async with broker(options) as connection:
        reports = [*map(_report, await connection.ask_all(STATUS, ANSWER_SECONDS))]
        flow = await _flow(connection)
    known = sorted((r for r in reports if r is not None), key=lambda r: (r.origin, r.service))
    lines = [*_parts(known), "", *flow]
    lines += [_last_error(report) for report in known if report.last_error]
    missing = FORWARDER not in {report.service for report in known}
    if missing:
        lines.append("The forwarder does not answer, so nothing is shipped; start it.")
    print("\n".join(map(escape, lines)))
    return int(missing or not all(report.ready for report in known))


def _report(answer: bytes) -> Report | None:
    """One part's answer; None for something else that listens on the subject."""
    try:
        return msgspec.json.decode(answer, type=Report)
    except msgspec.DecodeError:
        return None


def _parts(reports: list[Report]) -> list[str]:
    """A line for each part, and below it one for each of its conditions that says something."""
    lines = [f"{'PART':<12}{'ORIGIN':<20}{'STATE':<11}{'RUNNING':<10}VERSION"]
    for report in reports:
        state = "ready" if report.ready else "NOT READY"
        running = span(time.time() - report.started)
        lines.append(
            f"{report.service:<12}{report.origin:<20}{state:<11}{running:<10}{report.version}"
        )
        for name, condition in sorted(report.conditions.items()):
            mark = " " if condition.ok else "!"
            lines.append(f"  {mark} {name}: {condition.detail}")
    return lines


def _last_error(report: Report) -> str:
    when = f"{span(time.time() - report.last_error_at)} ago, " if report.last_error_at else ""
    return f"last error  {when}{report.service}: {report.last_error}"


async def _flow(connection: Bus) -> list[str]:
    """What is on its way: the buffer, what the forwarder has not shipped, what was refused."""
    events = await lookup(connection, f"STREAM.INFO.{EVENTS_STREAM}")
    if events is None:
        return ["buffer      not made yet; the forwarder makes it when it starts"]
    bound, state = events["config"]["max_bytes"], events["state"]
    limit = f" of {size(bound)}" if bound > 0 else ""
    lines = [f"buffer      {size(state['bytes'])}{limit}, {state['messages']} events"]
    consumer = await lookup(connection, f"CONSUMER.INFO.{EVENTS_STREAM}.{FORWARDER}")
    if consumer is not None:
        lines.append(
            f"lag         {consumer['num_pending']} to ship, "
            f"{consumer['num_ack_pending']} being shipped"
        )
    dead = await lookup(connection, f"STREAM.INFO.{DEAD_STREAM}")
    if dead is not None:
        refused = dead["state"]["messages"]
        lines.append(f"refused     {refused}" + (" (see `agentctl dead list`)" if refused else ""))
    return lines
