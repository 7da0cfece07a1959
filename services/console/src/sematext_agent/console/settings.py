"""What the live page reads from its environment."""

from __future__ import annotations

from typing import ClassVar

from sematext_agent.shared.settings import Port, ServiceSettings


class ConsoleSettings(ServiceSettings, frozen=True, kw_only=True):
    """The live page's settings, beside those of every service."""

    variable_pattern: ClassVar[str] = "CONSOLE_(?!ENABLED)"  # that one is for agentctl

    console_host: str = "127.0.0.1"
    """Where the page listens; `0.0.0.0` in a container, whose port is published on the loopback."""
    console_port: Port = 8676
    """0 takes any free port, and the log says which."""
    console_allowed_hosts: tuple[str, ...] = ()
    """Further names under which browsers reach the page, without a port: a proxy's, say."""
    console_replay_enabled: bool = False
    """Whether the page may send dead letters once more; else it changes nothing."""
