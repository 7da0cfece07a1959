"""Which messages are told: by category, by action, and by the container's image and name."""

from __future__ import annotations

import re

from sematext_agent.docker_collector.settings import DockerSettings, patterns


class Filter:
    """What the settings leave of the engine's messages."""

    def __init__(self, settings: DockerSettings) -> None:
        self._types = {category.lower() for category in settings.container_events_excluded}
        self._actions = {action.lower() for action in settings.container_events_actions_excluded}

        def read(field: str) -> list[re.Pattern[str]]:
            return patterns(field, getattr(settings, field))

        self._match_image = read("container_match_by_image")
        self._match_name = read("container_match_by_name")
        self._skip_image = read("container_skip_by_image")
        self._skip_name = read("container_skip_by_name")

    def wants(self, category: str, action: str) -> bool:
        """Whether such an action is told; `action` without the text that may follow it."""
        if category in self._types:
            return False
        return not self._actions or self._actions.isdisjoint((action, f"{category}.{action}"))

    def wants_container(self, name: str, image: str) -> bool:
        """Whether what happens to this container is told."""
        if self._match_image and not _found(self._match_image, image):
            return False
        if self._match_name and not _found(self._match_name, name):
            return False
        return not (_found(self._skip_image, image) or _found(self._skip_name, name))


def _found(expressions: list[re.Pattern[str]], text: str) -> bool:
    return any(expression.search(text) for expression in expressions)
