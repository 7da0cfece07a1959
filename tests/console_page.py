"""A client of the live page in tests, and events for the page."""

from __future__ import annotations

import asyncio
import http.client
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from typing import Any

from sematext_agent.console.settings import ConsoleSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import DockerEvent, Event, encode, event_id, format_rfc3339
from sematext_agent.shared.service import Runtime
from sematext_agent.shared.subjects import subject_of


def container_event(name: str = "web", action: str = "start", **changes: Any) -> Event:
    """Return an event of a container that happened just now."""
    attributes = {"name": name, "image": "nginx"} | changes.pop("attributes", {})
    body = DockerEvent(type="container", action=action, actor_id="0" * 64, attributes=attributes)
    values: dict[str, Any] = {
        "id": event_id(name, action, time.time_ns()),
        "time": format_rfc3339(time.time_ns()),
        "origin": "web-01",
        "agent": "1",
        "body": body,
    }
    return Event(**(values | changes))


async def publish_events(bus: Bus, *events: Event) -> int:
    """Publish events as a collector does; return the sequence of the last one in the stream."""
    answers = [await bus.begin_publish(subject_of(e), encode(e), e.id) for e in events]
    return (await asyncio.gather(*answers))[-1].seq


class PageClient:
    """A client of the page that `runtime` serves."""

    def __init__(self, runtime: Runtime[ConsoleSettings]) -> None:
        self.port = runtime.settings.console_port
        self.health = runtime.health
        self.stopping = runtime.stopping
        self.bus = runtime.bus

    async def request(
        self, path: str, method: str = "GET", body: Any = None, **headers: str
    ) -> tuple[int, Any, dict[str, str]]:
        """Send one request; return status, body (decoded if it is JSON) and headers."""
        return await asyncio.to_thread(self._request, path, method, body, headers)

    def _request(self, path: str, method: str, body: Any, headers: dict[str, str]) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=10)
        content = None if body is None else json.dumps(body)
        if content is not None:
            headers = {"Content-Type": "application/json"} | headers
        connection.request(method, path, content, headers)
        answer = connection.getresponse()
        text = answer.read().decode()
        connection.close()
        response_headers = {name.lower(): value for name, value in answer.getheaders()}
        is_json = response_headers.get("content-type") == "application/json"
        return answer.status, json.loads(text) if is_json else text, response_headers

    async def live(self, query: str = "") -> AsyncGenerator[tuple[str, Any], None]:
        """Yield name and data of each Server-Sent Event of an open page."""
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


OpenPage = Callable[..., Awaitable[PageClient]]
