"""The users of a real broker with the accounts of `agentctl users`, each logged in by password."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Any

from broker import wait_until

from sematext_agent.shared.bus import Bus

COLLECTORS = {"lifecycle", "docker", "host", "kubernetes"}
READERS = {"tap", "console", "replay", "agentctl"}


def event_subject(source: str) -> str:
    """Return the subject of an event of `source`."""
    return f"events.{source}.web-01.thing.happened"


class BrokerUser:
    """A user who is logged in at the broker, and the problems that the broker reported."""

    def __init__(self, connection: Bus) -> None:
        self.bus = connection
        self.problems: list[str] = []
        self._attempts = 0
        connection.on_problem = self.problems.append

    async def cannot_publish(self, subject: str, reply: str = "") -> bool:
        """Return whether the broker rejects a message on `subject`; its sender gets no answer."""
        await self.bus._client.publish(subject, b"{}", reply)
        return await self._has_problem_with(subject)

    async def cannot_subscribe(self, subject: str) -> bool:
        """Return whether the broker rejects a subscription to `subject`."""
        end = await self.bus.subscribe(subject, _ignore)
        rejected = await self._has_problem_with(subject)
        await end()
        return rejected

    async def _has_problem_with(self, subject: str) -> bool:
        """Return whether a problem names `subject`; a last rejection comes behind all others."""
        self._attempts += 1
        last = f" never.allowed.{self._attempts}:"
        await self.bus._client.publish(last[1:-1], b"")
        await wait_until(lambda: any(last in problem for problem in self.problems))
        return any(f" {subject.lower()}:" in problem for problem in self.problems)


async def _ignore(message: Any) -> None:
    pass


LogIn = Callable[[str], Awaitable[BrokerUser]]
