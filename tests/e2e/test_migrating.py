"""Claims of docs/migrating.md: its tables, and the services in the Sematext Agent's environment."""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path

import msgspec
import pytest
from broker import NatsServer, free_port
from kubernetes_api import api_server, kubeconfig
from receiver import TOKEN, Receiver

from sematext_agent.shared.settings import ServiceSettings, find_unknown_variables

PAGE = Path(__file__).parents[2] / "docs/migrating.md"
SETTINGS = {
    "forwarder": "ForwarderSettings",
    "docker_collector": "DockerSettings",
    "host_collector": "HostSettings",
    "kubernetes_collector": "KubernetesSettings",
    "lifecycle_collector": "LifecycleSettings",
}
OF_OTHER_PROGRAMS = {"INTERVAL", "NODE_IP", "STA_NAMESPACE"}
"""Names too common to complain about."""

# The container environment of https://sematext.com/docs/agents/sematext-agent/containers/configuration/,
# with the values of its examples and its defaults. Addresses and paths are set by the test.
DOCUMENTED = {
    "INFRA_TOKEN": TOKEN,
    "LOGS_TOKEN": "e1c9b66c-0000-0000-0000-000000000000",
    "CONTAINER_TOKEN": "e1c9b66c-0000-0000-0000-000000000001",
    "REGION": "US",
    "SERVER_BASE_URL": "https://spm-receiver.sematext.com",
    "LOGS_RECEIVER_URL": "https://logsene-receiver.sematext.com",
    "COMMAND_SERVER_URL": "https://command.sematext.com",
    "TRACES_RECEIVER_URL": "https://traces-receiver.sematext.com",
    "AIMONITORING_RECEIVER_URL": "https://aimonitoring-receiver.sematext.com",
    "CONFIG_FILE": "/opt/st-agent/st-agent.yml",
    "CONTAINER_ENABLED": "true",
    "CONTAINER_EVENTS_ENABLED": "true",
    "CONTAINER_EVENTS_EXCLUDED": "volume,network",
    "CONTAINER_SKIP_BY_IMAGE": "sematext/agent,sematext/app-agent,timberio/vector",
    "CONTAINER_SKIP_BY_NAME": "^test-.*",
    "CONTAINER_MATCH_BY_IMAGE": "nginx,redis",
    "CONTAINER_MATCH_BY_NAME": "web-[0-9]+",
    "KUBERNETES_ENABLED": "true",
    "KUBERNETES_EVENTS_ENABLED": "true",
    "KUBERNETES_EVENTS_EXCLUDED": "Pod,Node,Job,Secret",
    "KUBERNETES_EVENTS_NAMESPACE": "default",
    "KUBERNETES_NAMESPACES": "default,kube-system",
    "KUBERNETES_INTERVAL": "10s",
    "KUBERNETES_CLUSTER_ID": "default",
    "KUBERNETES_KUBELET_AUTH_TOKEN": "token",
    "KUBERNETES_KUBELET_CA_PATH": "/etc/ca.crt",
    "KUBERNETES_KUBELET_CERT_PATH": "/etc/kubelet.crt",
    "KUBERNETES_KUBELET_KEY_PATH": "/etc/kubelet.key",
    "KUBERNETES_KUBELET_INSECURE_SKIP_TLS_VERIFY": "true",
    "KUBERNETES_KUBELET_METRICS_PORT": "10250",
    "PKG_ENABLED": "true",
    "PKG_CONTAINER_ENABLED": "true",
    "PKG_INTERVAL": "10m",
    "CONFIGS_ENABLED": "false",
    "HOSTNAME_ALIAS": "web-01",
    "NODE_NAME": "node-1",
    "NODE_IP": "10.0.0.7",
    "STA_NAMESPACE": "monitoring",
    "PROXY_USERNAME": "me",
    "PROXY_PASSWORD": "word",
    "PROXY_SECURE": "false",
    "JOURNAL_DIR": "/var/run/st-agent",
    "JOURNAL_RETRY_INTERVAL": "30s",
    "LOGGING_LEVEL": "warn",
    "LOGGING_WRITE_EVENTS": "false",
    "LOGGING_REQUEST_TRACKING": "false",
    "INTERVAL": "10s",
    "API_SERVER_HOST": "0.0.0.0",
    "PIPELINE_CONSOLE_OUTPUT": "false",
    "PIPELINE_NULL_OUTPUT": "false",
    "TAGS": "env:dev, role:web",
}
SET_BY_THE_TEST = {
    "EVENTS_RECEIVER_URL",
    "PROXY_HOST",
    "PROXY_PORT",
    "DOCKER_TRANSPORT",
    "DOCKER_CERT_PATH",
    "API_SERVER_PORT",
}


def settings_of(service: str) -> type[ServiceSettings]:
    module = importlib.import_module(f"sematext_agent.{service}.settings")
    settings: type[ServiceSettings] = getattr(module, SETTINGS[service])
    return settings


def variables_of(service: str) -> set[str]:
    return {field.name.upper() for field in msgspec.structs.fields(settings_of(service))}


def rows(*titles: str) -> dict[str, str]:
    """Return the second column of the tables under `titles`, by variable."""
    parts = re.split(r"\n## (.*)\n", PAGE.read_text())
    table: dict[str, str] = {}
    for title in titles:
        body = parts[parts.index(title) + 1]
        for first, second in re.findall(r"^\| (`.*?) \| (.*?) \|", body, re.MULTILINE):
            table |= dict.fromkeys(re.findall(r"`([A-Z_]+)`", first), second)
    return table


SUPPORTED = rows("Works unchanged", "Works, with a difference")
UNSUPPORTED = rows("Has no counterpart")


@pytest.mark.parametrize("variable", sorted(SUPPORTED))
def test_a_supported_variable_is_a_setting_of_the_service_in_its_row(variable: str) -> None:
    service = SUPPORTED[variable].replace("-", "_")
    assert all(
        variable in variables_of(name) for name in (SETTINGS if service == "all" else [service])
    )


@pytest.mark.parametrize("variable", sorted(UNSUPPORTED))
def test_an_unsupported_variable_is_logged_by_a_single_service(variable: str) -> None:
    services = [
        name for name in SETTINGS if find_unknown_variables(settings_of(name), {variable: "x"})
    ]
    assert len(services) == (variable not in OF_OTHER_PROGRAMS)


def test_the_page_has_every_documented_variable() -> None:
    assert SUPPORTED.keys() | UNSUPPORTED.keys() == DOCUMENTED.keys() | SET_BY_THE_TEST


def test_no_service_logs_a_variable_of_another_service_as_unknown() -> None:
    ours = {variable for name in SETTINGS for variable in variables_of(name)}
    secrets = {"INFRA_TOKEN_FILE", "PROXY_PASSWORD_FILE", "KUBERNETES_SERVICE_HOST"}
    pod = secrets | {"KUBERNETES_PORT_443_TCP_PROTO", "KUBERNETES_PORT"}
    for name in SETTINGS:
        assert find_unknown_variables(settings_of(name), dict.fromkeys(ours | pod, "x")) == []


class Services:
    """Every service as a process of its own, with its health port."""

    def __init__(self, environ: dict[str, str]) -> None:
        self._environ = environ
        self.ports = {name: free_port() for name in SETTINGS}
        self.processes: dict[str, Process] = {}

    async def start(self) -> None:
        for name, port in self.ports.items():
            self.processes[name] = await asyncio.create_subprocess_exec(
                sys.executable,
                "-m",
                f"sematext_agent.{name}",
                stderr=PIPE,
                env=self._environ | {"API_SERVER_PORT": str(port)},
            )

    async def until_ready(self, name: str) -> None:
        url = f"http://127.0.0.1:{self.ports[name]}/readyz"
        while True:
            assert self.processes[name].returncode is None, await self._wait_for_log(name)
            with contextlib.suppress(OSError, urllib.error.HTTPError):
                await asyncio.to_thread(urllib.request.urlopen, url, timeout=5)
                return
            await asyncio.sleep(0.1)

    async def stop(self) -> list[str]:
        """Stop the services, the forwarder last, and return the log of each."""
        logs = []
        for name in reversed(SETTINGS):
            self.processes[name].send_signal(signal.SIGTERM)
            logs.append(await self._wait_for_log(name))
            assert self.processes[name].returncode == 0, logs[-1]
        return logs

    async def _wait_for_log(self, name: str) -> str:
        _, errors = await self.processes[name].communicate()
        return errors.decode()

    def kill(self) -> None:
        for process in self.processes.values():
            if process.returncode is None:
                process.kill()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as running:
        yield running


@pytest.fixture
async def services(
    nats_server: NatsServer, receiver: Receiver, tmp_path: Path
) -> AsyncIterator[Services]:
    certificates = tmp_path / "certificates"
    certificates.mkdir()
    for name in ("ca.pem", "cert.pem", "key.pem"):
        (certificates / name).touch()
    async with api_server() as cluster:
        running = Services(
            DOCUMENTED
            | {
                "EVENTS_RECEIVER_URL": "http://127.0.0.1:9/",  # reached through the proxy alone
                "PROXY_HOST": "127.0.0.1",
                "PROXY_PORT": str(receiver.port),
                "DOCKER_TRANSPORT": f"unix://{tmp_path}/docker.sock",
                "DOCKER_CERT_PATH": str(certificates),
            }
            # The Sematext Agent has no broker, and there is no cluster here.
            | {
                "NATS_URL": nats_server.url,
                "KUBECONFIG": str(kubeconfig(tmp_path / "kubeconfig", cluster.url)),
                "CLOUD_METADATA_ENABLED": "false",
                "PATH": os.environ["PATH"],
            }
        )
        await running.start()
        yield running
        running.kill()


async def test_every_service_starts_in_the_sematext_agents_environment_and_is_ready(
    services: Services, receiver: Receiver
) -> None:
    async with asyncio.timeout(60):
        await asyncio.gather(*map(services.until_ready, SETTINGS))
        logs = await services.stop()
    assert receiver.documents[0]["os.host"] == "web-01"
    assert {"env:dev", "role:web"} <= set(receiver.documents[0]["tags"])
    logged = re.findall(r"unknown settings: (.*) have no effect", "\n".join(logs))
    assert sorted(", ".join(logged).split(", ")) == sorted(UNSUPPORTED.keys() - OF_OTHER_PROGRAMS)
