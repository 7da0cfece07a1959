"""The summary of an event: one line for a person."""

from __future__ import annotations

import datetime
from collections.abc import Iterator

from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Event,
    Gap,
    KubernetesEvent,
    OutOfMemory,
    PackageChange,
    parse_rfc3339,
)
from sematext_agent.shared.subjects import subject_of

_ID_CHARACTERS = 12


def format_event_line(event: Event) -> str:
    """Return `15:04:05.123 docker     web-01  container web start (image nginx)`."""
    source = subject_of(event).split(".")[1]
    return f"{format_local_time(event.time)} {source:<10} {event.origin}  {summarize(event.body)}"


def format_local_time(time: str, now: datetime.datetime | None = None) -> str:
    """Return the local time of day, with the date before it unless that is today's."""
    try:
        nanoseconds = parse_rfc3339(time)
        local = datetime.datetime.fromtimestamp(nanoseconds // 10**9).astimezone()
    except (ValueError, OverflowError, OSError):
        return time  # an untrusted event, or a time that no calendar has
    clock = f"{local:%H:%M:%S}.{nanoseconds % 10**9 // 10**6:03d}"
    today = (now or datetime.datetime.now().astimezone()).date()
    return clock if local.date() == today else f"{local:%Y-%m-%d} {clock}"


def summarize(body: Body) -> str:
    """Return the summary of a body, without time and origin."""
    match body:
        case DockerEvent():
            return _summarize_docker(body)
        case KubernetesEvent():
            return _summarize_kubernetes(body)
        case OutOfMemory():
            container = body.container_name or body.container_id[:_ID_CHARACTERS]
            where = f" in {container}" if container else ""
            victim = f"process {body.process} ({body.pid})"
            return f"{victim} killed for lack of memory, it had {format_bytes(body.memory)}{where}"
        case PackageChange():
            return _summarize_package(body)
        case AgentLifecycle(state="stopped", clean=False):
            return "agent stopped without a word; it was last alive then"
        case AgentLifecycle():
            return f"agent {body.state}"
        case Gap():
            lost = "" if body.lost is None else f", {body.lost} lost"
            span = f"{format_local_time(body.since)} to {format_local_time(body.until)}"
            return f"GAP in {body.source} ({body.reason}), {span}{lost}: {body.detail}".rstrip(": ")


def _summarize_docker(body: DockerEvent) -> str:
    name = body.attributes.get("name") or body.actor_id[:_ID_CHARACTERS]
    details = [
        f"{word} {body.attributes[key]}"
        for key, word in (("image", "image"), ("exitCode", "exit code"), ("signal", "signal"))
        if body.attributes.get(key)
    ]
    container = body.attributes.get("container", "")
    if body.attributes.get("oldName"):
        details.append(f"was {body.attributes['oldName'].removeprefix('/')}")
    if body.type != "container" and container:
        details.append(f"container {container[:_ID_CHARACTERS]}")
    if body.synthetic:
        details.append("found later")
    return " ".join(filter(None, (body.type, name, body.action))) + _parenthesize(details)


def _summarize_kubernetes(body: KubernetesEvent) -> str:
    thing = "/".join(filter(None, (body.namespace, body.name)))
    times = f" (x{body.count})" if body.count > 1 else ""
    warning = "WARNING " if body.type == "Warning" else ""
    return f"{warning}{body.kind} {thing} {body.reason}{times}: {body.message}"


def _summarize_package(body: PackageChange) -> str:
    details = []
    if body.previous_version:
        details.append(f"was {body.previous_version}")
    if body.next_version:
        details.append(f"now {body.next_version}")
    if body.container_name or body.container_id:
        details.append(f"in {body.container_name or body.container_id[:_ID_CHARACTERS]}")
    package = f"{body.manager} package {body.name} {body.version} {body.change}"
    return package + _parenthesize(details)


def _parenthesize(details: list[str]) -> str:
    return f" ({', '.join(details)})" if details else ""


def format_bytes(count: float) -> str:
    """Return a size as `12.5 MiB`."""
    count = min(count, 2**80)  # an untrusted number may be beyond all floats
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} B" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def format_duration(seconds: float) -> str:
    """Return a duration in its two largest units, as `45 s` or `2 h 10 m`."""
    return " ".join(list(_split_units(int(seconds)))[:2]) or "0 s"


def _split_units(seconds: int) -> Iterator[str]:
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        if count := seconds // length:
            yield f"{count} {unit}"
        seconds %= length
