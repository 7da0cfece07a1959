"""`agentctl status`: one screen with the state of every service and of the delivery."""

from __future__ import annotations

import argparse
import sys

from sematext_agent.agentctl.connection import connect_to_broker
from sematext_agent.agentctl.terminal import Terminal
from sematext_agent.shared.health import Report
from sematext_agent.shared.logs import escape
from sematext_agent.shared.overview import DeliveryFigures, Overview, read_overview
from sematext_agent.shared.subjects import FORWARDER_CONSUMER
from sematext_agent.shared.summary import format_bytes, format_duration

_NO_FORWARDER = "The forwarder does not answer, so nothing is delivered; start it."

StyledLine = tuple[str, str]
"""A line and its colour."""


async def show(options: argparse.Namespace) -> int:
    """Print the screen; return 1 if something is not ready."""
    async with connect_to_broker(options) as connection:
        overview = await read_overview(connection)
    terminal = Terminal(sys.stdout)
    for text, colour in format_overview(overview):
        for line in terminal.wrap(escape(text)):
            print(terminal.paint(line, colour))
    return int(not (_has_forwarder(overview) and all(r.ready for r in overview.reports)))


def format_overview(overview: Overview) -> list[StyledLine]:
    """Return the lines of the screen, not yet escaped."""
    lines = _format_services(overview)
    lines.append(("", ""))
    lines += [(line, "") for line in _format_delivery(overview.delivery)]
    errors = [report for report in overview.reports if report.last_error]
    lines += [(_format_last_error(report, overview.now), "warning") for report in errors]
    if not _has_forwarder(overview):
        lines.append((_NO_FORWARDER, "error"))
    return lines


def _has_forwarder(overview: Overview) -> bool:
    return any(report.service == FORWARDER_CONSUMER for report in overview.reports)


def _format_services(overview: Overview) -> list[StyledLine]:
    """Return a line for each service, and below it one for each of its conditions."""
    rows = [("SERVICE", "ORIGIN", "STATE", "RUNNING", "VERSION")]
    for report in overview.reports:
        state = "ready" if report.ready else "NOT READY"
        running = format_duration(overview.now - report.started)
        rows.append((report.service, report.origin, state, running, report.version))
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    table = [
        "  ".join(f"{cell:<{width}}" for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    ]
    lines = [(table[0], "faint")]
    for report, row in zip(overview.reports, table[1:], strict=True):
        lines.append((row, "good" if report.ready else "error"))
        for name, condition in sorted(report.conditions.items()):
            mark, colour = (" ", "") if condition.ok else ("!", "error")
            lines.append((f"  {mark} {name}: {condition.detail}", colour))
    return lines


def _format_last_error(report: Report, now: float) -> str:
    age = f"{format_duration(now - report.last_error_at)} ago, " if report.last_error_at else ""
    return f"last error    {age}{report.service}: {report.last_error}"


def _format_delivery(delivery: DeliveryFigures | None) -> list[str]:
    """Return lines for the buffer, for events not yet delivered, and for dead letters."""
    if delivery is None:
        return ["buffer        not created yet; the forwarder creates it when it starts"]
    limit = f" of {format_bytes(delivery.bytes_max)}" if delivery.bytes_max else ""
    lines = [f"buffer        {format_bytes(delivery.bytes)}{limit}, {delivery.events} events"]
    if delivery.lag is not None:
        waiting = delivery.lag - delivery.in_flight
        lines.append(f"lag           {waiting} to deliver, {delivery.in_flight} in flight")
    if delivery.dead_letters is not None:
        hint = " (see `agentctl dead list`)" if delivery.dead_letters else ""
        lines.append(f"dead letters  {delivery.dead_letters}{hint}")
    return lines
