"""The severity of an event, in three steps; docs/events.md has the table."""

from __future__ import annotations

from typing import Literal, get_args

from sematext_agent.shared.events import (
    AgentLifecycle,
    Body,
    DockerEvent,
    Gap,
    KubernetesEvent,
    OutOfMemory,
)

Severity = Literal["info", "warning", "error"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)
"""The severities, the mildest first."""

# Ended by SIGINT or SIGTERM (128 + the signal's number): requested.
_REQUESTED_ENDS = frozenset({130, 143})
# Ended by SIGKILL: `docker kill`, a stop that took too long, or the kernel out of memory.
_KILLED = 137


def severity_of(body: Body) -> Severity:
    """Return the severity of an event with this body."""
    match body:
        case DockerEvent():
            return _rate_docker(body)
        case OutOfMemory():
            return "error"
        case KubernetesEvent(type="Warning") | AgentLifecycle(clean=False) | Gap():
            return "warning"
    return "info"


def _rate_docker(body: DockerEvent) -> Severity:
    attributes = body.attributes
    match body.type, body.action:
        case "container", "oom":
            return "error"
        case "container", "die":
            code = exit_code(body)
            if code is None or code == _KILLED:
                return "warning"
            return "info" if code == 0 or code in _REQUESTED_ENDS else "error"
        case "container", action if action.startswith("health_status"):
            return "warning" if "unhealthy" in action else "info"
        case "node", "update":
            return "warning" if attributes.get("state.new") in ("down", "disconnected") else "info"
        case "service", "update":
            state = attributes.get("updatestate.new", "")
            return "warning" if state.startswith(("paused", "rollback")) else "info"
    return "info"


def exit_code(body: DockerEvent) -> int | None:
    """Return the exit code of a container that died, or None where the engine sent none."""
    try:
        return int(body.attributes.get("exitCode", ""))
    except ValueError:
        return None
