"""The settings of `agentctl up`, beside those that every service reads."""

from __future__ import annotations

from sematext_agent.shared.settings import Port, Secret, ServiceSettings


class UpSettings(ServiceSettings, frozen=True, kw_only=True):
    """The settings of the supervisor; each service reads its own."""

    infra_token: Secret = Secret("")
    """Token of the forwarder; here only its absence matters, which is shown at the start."""
    logging_write_events: bool = False
    """Shows what services print beside their logs: the forwarder's documents."""
    console_enabled: bool = True
    """Serves the live page."""
    console_replay_enabled: bool = False
    """Lets the page replay dead letters."""
    console_port: Port = 8676
    """Port of the page; unless it is set, any free port replaces one that is taken."""
