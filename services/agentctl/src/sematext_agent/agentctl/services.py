"""The services that `agentctl up` runs: their order of stopping, and the settings each may see."""

from __future__ import annotations

from collections.abc import Mapping
from enum import IntEnum
from importlib.util import find_spec
from pathlib import Path

import msgspec

CONSOLE = "console"
_SECRETS = {"INFRA_TOKEN", "INFRA_TOKEN_FILE", "PROXY_PASSWORD", "PROXY_PASSWORD_FILE"}


class StopOrder(IntEnum):
    """The turn in which a service stops."""

    FIRST = 0
    """Before the others, because its event of the stop must still be delivered."""
    SECOND = 1
    LAST = 2
    """After the others, because it delivers their events."""


class AgentService(msgspec.Struct, frozen=True):
    """One service of the agent."""

    name: str
    module: str
    stop_order: StopOrder = StopOrder.SECOND
    needs_secrets: bool = False
    """True for the one service that gets the token and the proxy's password."""

    def is_available(self, environ: Mapping[str, str]) -> bool:
        """Return whether the service is installed and has a source to watch."""
        return _is_installed(self.module) and (
            self.name != "kubernetes" or _has_cluster_access(environ)
        )

    def filter_environment(self, environ: Mapping[str, str]) -> dict[str, str]:
        """Return the variables of `environ` that the service may see."""
        return dict(environ) if self.needs_secrets else without_secrets(environ)


SERVICES = (
    AgentService("lifecycle", "sematext_agent.lifecycle_collector", StopOrder.FIRST),
    AgentService("docker", "sematext_agent.docker_collector"),
    AgentService("host", "sematext_agent.host_collector"),
    AgentService("kubernetes", "sematext_agent.kubernetes_collector"),
    AgentService(CONSOLE, "sematext_agent.console"),
    AgentService("forwarder", "sematext_agent.forwarder", StopOrder.LAST, needs_secrets=True),
)


def without_secrets(environ: Mapping[str, str]) -> dict[str, str]:
    """Return `environ` for a process that sends nothing to Sematext."""
    return {name: value for name, value in environ.items() if name not in _SECRETS}


def _is_installed(module: str) -> bool:
    return find_spec(module) is not None and find_spec(f"{module}.__main__") is not None


def _has_cluster_access(environ: Mapping[str, str]) -> bool:
    """Return whether kubectl is configured here, or this is a pod."""
    if environ.get("KUBECONFIG") or environ.get("KUBERNETES_SERVICE_HOST"):
        return True
    return Path.home().joinpath(".kube/config").is_file()
