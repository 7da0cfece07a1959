"""The settings of the live page, beside those that every service reads."""

from __future__ import annotations

from typing import ClassVar

from sematext_agent.shared.settings import Port, ServiceSettings


class ConsoleSettings(ServiceSettings, frozen=True, kw_only=True):
    """The live page's settings."""

    variable_pattern: ClassVar[str] = "CONSOLE_(?!ENABLED)"  # that one is for agentctl

    console_host: str = "127.0.0.1"
    """Address of the page; `0.0.0.0` in a container, whose port is published on the loopback."""
    console_port: Port = 8676
    """Port of the page; 0 takes any free one, which the log names."""
    console_allowed_hosts: tuple[str, ...] = ()
    """Further names under which browsers reach the page, without a port: a proxy's, say."""
    console_replay_enabled: bool = False
    """Lets the page replay dead letters; otherwise it changes nothing."""
