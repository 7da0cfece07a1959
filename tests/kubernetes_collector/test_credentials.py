"""The address of the API server and the credentials, from every source that kubectl knows."""

from __future__ import annotations

import json
import ssl
import stat
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import wait_until
from certificates import Authority
from kubernetes.config import incluster_config
from kubernetes_api import ApiServer, api_server, kubeconfig
from kubernetes_running import RunningCollector, wait_for_events

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.credentials import Credentials
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import SettingsError, load_settings

Start = Callable[..., RunningCollector]


@pytest.fixture(autouse=True)
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Hide the kubeconfig of this machine, and that it is a pod."""
    for name in ("KUBECONFIG", "KUBERNETES_SERVICE_HOST", "KUBERNETES_SERVICE_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))


def credentials(**environ: str) -> Credentials:
    return Credentials(load_settings(KubernetesSettings, environ))


async def ask(credentials: Credentials) -> bytes:
    async with Api(credentials) as api:
        return await api.request("GET", "/api/v1/namespaces/kube-system")


def test_a_missing_configuration_is_a_settings_error() -> None:
    with pytest.raises(SettingsError) as caught:
        credentials()
    assert str(caught.value) == (
        "KUBECONFIG: not set, and neither a pod's service account nor ~/.kube/config is here; "
        "run inside a cluster, or name a kubeconfig file"
    )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (None, "No configuration found"),
        ("", "file is empty"),
        ("{", "while parsing"),
        ("[]", "cannot be used"),
        ("current-context: x", "cannot be used"),
    ],
)
def test_an_unusable_kubeconfig_is_a_settings_error_that_names_it(
    tmp_path: Path, text: str | None, problem: str
) -> None:
    path = tmp_path / "config"
    if text is not None:
        path.write_text(text)
    with pytest.raises(SettingsError) as caught:
        credentials(KUBECONFIG=str(path))
    assert str(caught.value).startswith(f"KUBECONFIG={path}: cannot be used (")
    assert problem in str(caught.value)
    assert "\n" not in str(caught.value)


async def test_the_configured_context_is_used_and_an_unknown_one_refused(tmp_path: Path) -> None:
    path = kubeconfig(tmp_path / "config", "http://127.0.0.1:1", token="one")
    config = json.loads(path.read_text())
    config["contexts"].append({"name": "other", "context": {"cluster": "d", "user": "v"}})
    config["clusters"].append({"name": "d", "cluster": {"server": "http://127.0.0.1:2/"}})
    config["users"].append({"name": "v", "user": {"username": "me", "password": "secret"}})
    path.write_text(json.dumps(config))
    access = await credentials(KUBECONFIG=str(path)).current()
    assert (access.server, access.headers) == (
        "http://127.0.0.1:1",
        {"Authorization": "Bearer one"},
    )
    access = await credentials(KUBECONFIG=str(path), KUBERNETES_CONTEXT="other").current()
    assert access.server == "http://127.0.0.1:2"
    assert access.headers["Authorization"].startswith("Basic ")
    with pytest.raises(SettingsError, match="KUBERNETES_CONTEXT"):
        credentials(KUBECONFIG=str(path), KUBERNETES_CONTEXT="absent")


async def test_a_token_file_that_changes_costs_one_refused_request(
    cluster: ApiServer, streams: Bus, start_collector: Start, tmp_path: Path
) -> None:
    """The package reads a kubeconfig's tokenFile once; a token may live for less than an hour."""
    token = tmp_path / "token"
    token.write_text("first")
    cluster.tokens = {"first"}
    path = kubeconfig(tmp_path / "rotating", cluster.url, tokenFile=str(token))
    running = start_collector(KUBECONFIG=str(path))
    await wait_until(lambda: len(cluster.watches()) == 1)
    token.write_text("second")
    cluster.tokens = {"second"}
    before = len(cluster.requests)
    cluster.end_watches()
    cluster.add("one")
    await wait_for_events(streams, 1)
    tokens = [request.headers["authorization"] for request in cluster.requests[before:]]
    assert tokens.count("Bearer first") == 1
    assert running.count("api_failures") == 0
    assert running.cluster.ok


async def test_an_expired_token_makes_unready_until_there_is_a_new_one(
    cluster: ApiServer, streams: Bus, start_collector: Start, tmp_path: Path
) -> None:
    token = tmp_path / "token"
    token.write_text("old")
    cluster.tokens = {"new"}
    running = start_collector(
        KUBECONFIG=str(kubeconfig(tmp_path / "rotating", cluster.url, tokenFile=str(token)))
    )
    await wait_until(lambda: "401" in running.cluster.detail)
    assert not running.task.done()
    cluster.add("one")
    token.write_text("new")
    await wait_for_events(streams, 1)
    await wait_until(lambda: running.cluster.ok)


async def test_a_pod_uses_its_service_account(
    cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And its token is read anew when the one we have is refused."""
    authority = Authority(tmp_path, "ca")
    (tmp_path / "token").write_text("first\n")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.certificate))
    async with api_server(authority.server("server")) as server:
        monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "127.0.0.1")
        monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(server.port))
        server.tokens = {"first"}
        current = credentials()
        assert server.cluster_uid.encode() in await ask(current)
        (tmp_path / "token").write_text("second\n")
        server.tokens = {"second"}
        assert server.cluster_uid.encode() in await ask(current)
        assert len(server.requests) == 3


async def test_a_changed_certificate_authority_is_read_anew(tmp_path: Path) -> None:
    first, second = Authority(tmp_path, "first"), Authority(tmp_path, "second")
    trusted = tmp_path / "ca.pem"
    trusted.write_bytes(first.certificate.read_bytes())
    async with api_server(first.server("one")) as server:
        path = kubeconfig(
            tmp_path / "config", server.url, certificate_authority=str(trusted), token="t"
        )
        current = credentials(KUBECONFIG=str(path))
        await ask(current)
        await server.stop()
        server.tls = second.server("two")
        await server.start()
        with pytest.raises(ApiError, match="certificate"):
            await ask(current)
        trusted.write_bytes(second.certificate.read_bytes())
        await ask(current)


async def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    async with api_server(authority.server("server", "DNS:elsewhere.example")) as server:
        path = kubeconfig(
            tmp_path / "config",
            server.url,
            certificate_authority=str(authority.certificate),
            token="t",
        )
        with pytest.raises(ApiError, match=r"127\.0\.0\.1"):
            await ask(credentials(KUBECONFIG=str(path)))
        config = json.loads(path.read_text())
        config["clusters"][0]["cluster"]["tls-server-name"] = "elsewhere.example"
        path.write_text(json.dumps(config))
        await ask(credentials(KUBECONFIG=str(path)))


async def test_a_certificate_authority_without_a_key_identifier_is_accepted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As EKS and microk8s have; Python 3.13 and later refuse it by default."""
    create = ssl.create_default_context

    def strict(*arguments: str, **named: str) -> ssl.SSLContext:
        context = create(*arguments, **named)  # type: ignore[arg-type]
        context.verify_flags |= ssl.VERIFY_X509_STRICT
        return context

    monkeypatch.setattr(ssl, "create_default_context", strict)
    authority = Authority(
        tmp_path, "ca", "subjectKeyIdentifier=none", "authorityKeyIdentifier=none"
    )
    async with api_server(authority.server("server")) as server:
        path = kubeconfig(
            tmp_path / "config",
            server.url,
            certificate_authority=str(authority.certificate),
            token="t",
        )
        await ask(credentials(KUBECONFIG=str(path)))


async def test_a_client_certificate_is_presented(tmp_path: Path) -> None:
    authority = Authority(tmp_path, "ca")
    tls = authority.server("server")
    tls.verify_mode = ssl.CERT_REQUIRED
    tls.load_verify_locations(authority.certificate)
    certificate, key = authority.issue("me", "DNS:me")
    async with api_server(tls) as server:
        path = kubeconfig(
            tmp_path / "config",
            server.url,
            certificate_authority=str(authority.certificate),
            **{"client-certificate": str(certificate), "client-key": str(key)},
        )
        await ask(credentials(KUBECONFIG=str(path)))


async def test_an_exec_plugin_is_run_again_when_its_token_expires(
    cluster: ApiServer, tmp_path: Path
) -> None:
    """As `aws eks get-token` and its kind: the credential says until when it is good."""
    plugin, runs, expiry = tmp_path / "plugin", tmp_path / "runs", tmp_path / "expiry"
    expiry.write_text("2099-01-01T00:00:00Z")
    plugin.write_text(
        f"""#!{sys.executable}
import json, pathlib
runs = pathlib.Path({str(runs)!r})
runs.write_text(runs.read_text() + "x" if runs.exists() else "x")
status = {{"token": f"token-{{len(runs.read_text())}}",
           "expirationTimestamp": pathlib.Path({str(expiry)!r}).read_text()}}
print(json.dumps({{"apiVersion": "client.authentication.k8s.io/v1",
                   "kind": "ExecCredential", "status": status}}))
"""
    )
    plugin.chmod(plugin.stat().st_mode | stat.S_IXUSR)
    user = {"apiVersion": "client.authentication.k8s.io/v1", "command": str(plugin)}
    path = kubeconfig(tmp_path / "config", cluster.url, exec=user)
    cluster.tokens = {"token-1"}
    current = credentials(KUBECONFIG=str(path))
    await ask(current)
    await ask(current)
    assert runs.read_text() == "x"
    # Refused before its time, the plugin is run again; and this one expires at once.
    expiry.write_text("2020-01-01T00:00:00Z")
    cluster.tokens = {f"token-{number}" for number in range(2, 9)}
    await ask(current)
    await ask(current)
    assert len(runs.read_text()) >= 3
    assert cluster.requests[-1].headers["authorization"] == f"Bearer token-{len(runs.read_text())}"


async def test_a_configuration_that_becomes_unreadable_keeps_the_old_one(
    cluster: ApiServer, tmp_path: Path
) -> None:
    path = kubeconfig(tmp_path / "config", cluster.url, token="good")
    current = credentials(KUBECONFIG=str(path))
    path.write_text("{half")
    await current.reload()
    assert (await current.current()).headers == {"Authorization": "Bearer good"}
    await ask(current)


async def test_no_proxy_exempts_the_server_from_the_proxy(
    cluster: ApiServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTP_PROXY", "http://127.0.0.1:9")
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    path = kubeconfig(tmp_path / "config", cluster.url)
    assert (await credentials(KUBECONFIG=str(path)).current()).proxy is None
    await ask(credentials(KUBECONFIG=str(path)))
    monkeypatch.setenv("NO_PROXY", "elsewhere")
    assert (await credentials(KUBECONFIG=str(path)).current()).proxy == "http://127.0.0.1:9"
