"""Events in a real cluster, and the wait for them in the stream."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from control_plane import ControlPlane
from kubernetes_running import published_events

from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent


def post_event(plane: ControlPlane, name: str, kind: str = "Pod", **fields: Any) -> int:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    event = {
        "metadata": {"name": name, "namespace": "default"},
        "involvedObject": {"kind": kind, "namespace": "default", "name": f"a-{kind.lower()}"},
        "reason": f"{kind}Changed",
        "message": f"{kind} was changed",
        "type": "Normal",
        "firstTimestamp": now,
        "lastTimestamp": now,
        "count": 1,
        "source": {"component": "test"},
    }
    answer = plane.call("POST", "/api/v1/namespaces/default/events", event | fields)
    return int(answer["metadata"]["resourceVersion"])


def repeat_event(plane: ControlPlane, name: str, count: int) -> int:
    path = f"/api/v1/namespaces/default/events/{name}"
    return int(plane.call("PATCH", path, {"count": count})["metadata"]["resourceVersion"])


def select_test_events(events: list[Event]) -> list[KubernetesEvent]:
    """Return the events of the test, without those that the API server records at its start."""
    return [
        event.body
        for event in events
        if isinstance(event.body, KubernetesEvent) and event.body.namespace == "default"
    ]


async def wait_for_published(
    bus: Bus, condition: Callable[[list[Event]], bool], seconds: float = 20
) -> list[Event]:
    """Return all events of the stream, once `condition` holds."""
    async with asyncio.timeout(seconds):
        while not condition(events := await published_events(bus)):
            await asyncio.sleep(0.05)
    return events


def contains(*resource_versions: int) -> Callable[[list[Event]], bool]:
    wanted = {str(version) for version in resource_versions}
    return lambda events: wanted <= {body.resource_version for body in select_test_events(events)}
