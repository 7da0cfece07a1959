"""The services of `agentctl up`: which of them run here, and what each may see."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.agentctl import services
from sematext_agent.agentctl.services import SERVICES, AgentService
from sematext_agent.agentctl.settings import UpSettings
from sematext_agent.agentctl.state import StateDirectory
from sematext_agent.agentctl.up import describe_start, select_services
from sematext_agent.shared.settings import load_settings


def test_the_cluster_is_watched_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(services, "_is_installed", lambda module: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    (kubernetes,) = (service for service in SERVICES if service.name == "kubernetes")
    assert not kubernetes.is_available({})
    assert kubernetes.is_available({"KUBECONFIG": "/etc/kubeconfig"})
    assert kubernetes.is_available({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert kubernetes.is_available({})


def test_a_service_that_is_not_installed_is_not_available() -> None:
    assert not AgentService("ghost", "no_such_module").is_available({})
    assert AgentService("lifecycle", "sematext_agent.lifecycle_collector").is_available({})


def test_only_the_forwarder_sees_the_token() -> None:
    environ = {"INFRA_TOKEN": "t", "PROXY_PASSWORD": "p", "REGION": "EU"}
    seeing = [s.name for s in SERVICES if "INFRA_TOKEN" in s.filter_environment(environ)]
    assert seeing == ["forwarder"]
    assert all("REGION" in service.filter_environment(environ) for service in SERVICES)


@pytest.mark.parametrize("enabled", ["true", "false"])
def test_the_page_is_served_and_shown_unless_it_is_turned_off(enabled: str, tmp_path: Path) -> None:
    settings = load_settings(UpSettings, {"CONSOLE_ENABLED": enabled})
    names = [service.name for service in select_services(SERVICES, settings, {})]
    assert "forwarder" in names
    assert ("console" in names) is (enabled == "true")
    start = [*describe_start(settings, StateDirectory(tmp_path), names, 8676)]
    assert ("  page      http://127.0.0.1:8676/" in start) is (enabled == "true")
