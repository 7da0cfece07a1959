"""The relation of a document to its event."""

from __future__ import annotations

from typing import Any

from sematext_agent.shared.events import DockerEvent, Event


def assert_describes(document: dict[str, Any], event: Event) -> None:
    """Assert the tags and the text that Sematext documents for an event of the Docker Engine."""
    body = event.body
    assert isinstance(body, DockerEvent)
    assert document["message"].startswith(f"Docker Event: {body.type} {body.action}")
    assert document["container.object"] == body.type
    assert document["container.status"] == body.action
    assert document["timestamp"] == event.time
    assert document["os.host"] == event.origin
    assert document["event.id"] == event.id
    assert document["severity"] in ("info", "warning", "error")
    if body.type == "container" and body.action != "prune":
        assert document["container.id"] == body.actor_id
        assert document["container.name"] == body.attributes["name"]
        assert document["container.image"] == document["container.from"]
        assert document["container.image"] == body.attributes["image"]
    elif body.action != "prune":
        assert document["docker.actor.id"] == body.actor_id
