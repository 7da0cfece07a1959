"""Filter: the fourth stage, which drops the messages that the settings exclude."""

from __future__ import annotations

import re
from collections.abc import Callable

from sematext_agent.docker_collector.message import EngineMessage, EngineObject
from sematext_agent.docker_collector.settings import DockerSettings, parse_patterns
from sematext_agent.docker_collector.translate import translate
from sematext_agent.shared.events import Event


class EventFilter:
    """The stage that hands a message on to `translate`, or counts why it does not."""

    def __init__(self, settings: DockerSettings, count_filtered: Callable[[str], None]) -> None:
        """Read the settings; `count_filtered` counts a dropped message by its reason."""
        self._types = {category.lower() for category in settings.container_events_excluded}
        self._actions = {action.lower() for action in settings.container_events_actions_excluded}
        self._includes_health_checks = settings.container_events_healthchecks
        self._origin = settings.hostname

        def parse(field: str) -> list[re.Pattern[str]]:
            return parse_patterns(field, getattr(settings, field))

        self._match_image = parse("container_match_by_image")
        self._match_name = parse("container_match_by_name")
        self._skip_image = parse("container_skip_by_image")
        self._skip_name = parse("container_skip_by_name")
        self._count_filtered = count_filtered

    def process(
        self, message: EngineMessage, identifier: str, engine_object: EngineObject
    ) -> Event | None:
        """Return the event of `message`, or None where the settings exclude it."""
        if reason := self._find_reason(message, engine_object):
            self._count_filtered(reason)
            return None
        return translate(message, identifier, self._origin, engine_object)

    def accepts_action(self, category: str, action: str) -> bool:
        """Return whether the settings keep an action, given without the text after its name."""
        if category in self._types:
            return False
        return not self._actions or self._actions.isdisjoint((action, f"{category}.{action}"))

    def accepts_container(self, name: str, image: str) -> bool:
        """Return whether the settings keep the events of a container."""
        if self._match_image and not _matches(self._match_image, image):
            return False
        if self._match_name and not _matches(self._match_name, name):
            return False
        return not (_matches(self._skip_image, image) or _matches(self._skip_name, name))

    def _find_reason(self, message: EngineMessage, engine_object: EngineObject) -> str:
        """Return why a message is dropped, in a word; empty where it is kept."""
        if engine_object.is_health_check and (
            message.verb == "health_status" or not self._includes_health_checks
        ):
            return "healthcheck"
        if not self.accepts_action(message.type, message.verb):
            return "excluded"
        if message.type == "container" and message.object_id:
            attributes = message.attributes
            name, image = attributes.get("name", ""), attributes.get("image", "")
        elif engine_object.joined_container is not None:
            name, image = engine_object.joined_container
        else:
            return ""
        return "" if self.accepts_container(name, image) else "container"


def _matches(patterns: list[re.Pattern[str]], text: str) -> bool:
    return any(pattern.search(text) for pattern in patterns)
