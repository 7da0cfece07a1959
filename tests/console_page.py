"""What asks the live page in tests, and events for it."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import DockerEvent, Event, encode, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import subject_of


def an_event(name: str = "web", action: str = "start", **changes: Any) -> Event:
    """What a container did just now."""
    attributes = {"name": name, "image": "nginx"} | changes.pop("attributes", {})
    body = DockerEvent(type="container", action=action, actor_id="0" * 64, attributes=attributes)
    values = {
        "id": event_id(name, action, time.time_ns()),
        "time": format_rfc3339(time.time_ns()),
        "origin": "web-01",
        "agent": "1",
        "body": body,
    }
    return Event(**(values | changes))


async def tell(bus: Bus, *events: Event) -> int:
    """Publishes the events as a collector does; returns the number of the last in the stream."""
    waiting = [await bus.begin_publish(subject_of(e), encode(e), e.id) for e in events]
    return (await asyncio.gather(*waiting))[-1].seq


class Page:
    """What answers on the page's port."""

    def __init__(self, runtime: Runtime[ConsoleSettings]) -> None:
        self.port = runtime.settings.console_port
        self.health = runtime.health
        self.stopping = runtime.stopping
        self.bus = runtime.bus

    async def ask(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """One request: status, what it answers (read as JSON where it is that), and the headers."""
        return await asyncio.to_thread(self._ask, path, method, body, headers)

    def _ask(self, path: str, method: str, body: Any, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        content = None if body is None else json.dumps(body)
        if content is not None:
            headers = {"Content-Type": "application/json"} | headers
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return answer.status, json.loads(text) if is_json else text, found

    async def live(self, query: str = "") -> AsyncIterator[tuple[str, Any]]:
        """What an open page is told: the name of each Server-Sent Event, and its data."""
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port, limit=2**24)
        writer.write(f"GET /live?{query} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        name = ""
        try:
            while line := (await reader.readline()).decode().rstrip():
                pass  # the headers
            while True:
                line = (await reader.readline()).decode()
                if not line:
                    return
                if line.startswith("event: "):
                    name = line[7:].strip()
                elif line.startswith("data: "):
                    yield name, json.loads(line[6:])
        finally:
            writer.close()


Open = Callable[..., Awaitable[Page]]
