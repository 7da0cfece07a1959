"""`agentctl status`: one screen that says how every part is, asked for on the bus."""

from __future__ import annotations

import argparse
import sys
import time

import msgspec

from sematext_agent.agentctl.reaching import broker
from sematext_agent.agentctl.terminal import Terminal
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.health import Report
from sematext_agent.shared.logs import escape
from sematext_agent.shared.stream_reader import find_info, read_backlog
from sematext_agent.shared.subjects import (
    DEAD_STREAM,
    EVENTS_STREAM,
    FORWARDER_CONSUMER,
    STATUS_SUBJECT,
)
from sematext_agent.shared.summary import format_bytes, format_duration

ANSWER_SECONDS = 0.5
"""How long the parts may take to answer: they do in milliseconds, or not at all."""
_NO_FORWARDER = "The forwarder does not answer, so nothing is shipped; start it."

Line = tuple[str, str]
"""A line and its colour."""


async def show(options: argparse.Namespace) -> int:
    """Prints the screen. Returns 1 where something is not ready."""
    async with broker(options) as connection:
        reports = [*map(_report, await connection.request_all(STATUS_SUBJECT, ANSWER_SECONDS))]
        flow = await _flow(connection)
    known = sorted((r for r in reports if r is not None), key=lambda r: (r.origin, r.service))
    terminal = Terminal(sys.stdout)
    lines = [*_parts(known), ("", ""), *((line, "") for line in flow)]
    lines += [(_last_error(report), "warning") for report in known if report.last_error]
    missing = FORWARDER_CONSUMER not in {report.service for report in known}
    if missing:
        lines.append((_NO_FORWARDER, "error"))
    for text, colour in lines:
        for line in terminal.wrapped(escape(text)):
            print(terminal.paint(line, colour))
    return int(missing or not all(report.ready for report in known))


def _report(answer: bytes) -> Report | None:
    """One part's answer; None for something else that listens on the subject."""
    try:
        return msgspec.json.decode(answer, type=Report)
    except DECODE_ERRORS:
        return None


def _parts(reports: list[Report]) -> list[Line]:
    """A line for each part, and below it one for each of its conditions that says something."""
    rows = [("PART", "ORIGIN", "STATE", "RUNNING", "VERSION")]
    for report in reports:
        state = "ready" if report.ready else "NOT READY"
        running = format_duration(time.time() - report.started)
        rows.append((report.service, report.origin, state, running, report.version))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines = [(table[0], "faint")]
    for report, row in zip(reports, table[1:], strict=True):
        lines.append((row, "good" if report.ready else "error"))
        for name, condition in sorted(report.conditions.items()):
            mark, colour = (" ", "") if condition.ok else ("!", "error")
            lines.append((f"  {mark} {name}: {condition.detail}", colour))
    return lines


def _last_error(report: Report) -> str:
    when = (
        f"{format_duration(time.time() - report.last_error_at)} ago, "
        if report.last_error_at
        else ""
    )
    return f"last error  {when}{report.service}: {report.last_error}"


async def _flow(connection: Bus) -> list[str]:
    """What is on its way: the buffer, what the forwarder has not shipped, what was refused."""
    events = await find_info(connection, f"STREAM.INFO.{EVENTS_STREAM}")
    if events is None:
        return ["buffer      not made yet; the forwarder makes it when it starts"]
    bound, state = events["config"]["max_bytes"], events["state"]
    limit = f" of {format_bytes(bound)}" if bound > 0 else ""
    lines = [f"buffer      {format_bytes(state['bytes'])}{limit}, {state['messages']} events"]
    behind = await read_backlog(connection)
    if behind is not None:
        lines.append(f"lag         {behind.waiting} to ship, {behind.in_flight} being shipped")
    dead = await find_info(connection, f"STREAM.INFO.{DEAD_STREAM}")
    if dead is not None:
        refused = dead["state"]["messages"]
        lines.append(f"refused     {refused}" + (" (see `agentctl dead list`)" if refused else ""))
    return lines
