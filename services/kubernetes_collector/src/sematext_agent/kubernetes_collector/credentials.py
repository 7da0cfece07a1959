"""The address of the API server and the credentials for it, read by the `kubernetes` package.

The package reads kubeconfig files (contexts, exec plugins, client certificates, proxies) and a
pod's service account. Nothing else of it is used, and it is imported here only, when first needed:
its models and its watch cost memory, and turn errors into silence.

Tokens and authorities change while the service runs. The package reads a pod's token again each
minute and runs an exec plugin again when its credential expires. Everything else is read again by
`reload`, when the server refuses a token or its certificate is refused.
"""

from __future__ import annotations

import asyncio
import logging
import os
import ssl
from pathlib import Path
from typing import Any

import msgspec

from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.settings import SettingsError

log = logging.getLogger(__name__)

_HOME_KUBECONFIG = "~/.kube/config"


class Access(msgspec.Struct, frozen=True):
    """The server, the credentials and the TLS of one request."""

    server: str
    """`https://10.0.0.1:443`, without a slash at the end."""
    headers: dict[str, str]
    tls: ssl.SSLContext | bool
    server_hostname: str | None
    """The name that the server's certificate must have, where it is not the host's."""
    proxy: str | None


class Credentials:
    """The credentials of this process, renewed as they expire."""

    def __init__(self, settings: KubernetesSettings) -> None:
        """Read the configuration for the first time.

        Raises:
            SettingsError: there is none, or it cannot be used.
        """
        self._settings = settings
        try:
            self._configuration = _load(settings)
            self._tls = _tls(self._configuration)
        except _configuration_errors() as error:
            raise SettingsError(
                *_describe(settings, error), "correct it, or choose another KUBERNETES_CONTEXT"
            ) from None

    async def current(self) -> Access:
        """Return the access of the next request; in a thread, as a plugin may have to run."""
        return await asyncio.to_thread(self._access)

    def _access(self) -> Access:
        configuration = self._configuration
        try:
            token = configuration.get_api_key_with_prefix("BearerToken")
        except _configuration_errors() as error:
            # The old one may still be good; if it is not, the server answers 401.
            log.warning("credential not renewed: %s (sending the old one)", error)
            token = configuration.api_key.get("BearerToken")
        return Access(
            server=configuration.host.rstrip("/"),
            headers={"Authorization": token.strip()} if token else {},
            tls=self._tls,
            server_hostname=configuration.tls_server_name,
            proxy=_proxy(configuration),
        )

    async def reload(self) -> None:
        """Read everything anew: tokens, certificates, authorities, the address."""
        await asyncio.to_thread(self._reload)

    def _reload(self) -> None:
        try:
            configuration = _load(self._settings)
            self._tls = _tls(configuration)
            self._configuration = configuration
        except _configuration_errors() as error:
            log.warning("configuration not read anew: %s (keeping the old one)", error)


def _load(settings: KubernetesSettings) -> Any:
    """Return the package's configuration, from where kubectl and client-go would take it."""
    from kubernetes import config
    from kubernetes.client.configuration import Configuration

    configuration = Configuration()
    home = Path(_HOME_KUBECONFIG).expanduser()
    explicit = settings.kubeconfig or settings.kubernetes_context
    if not explicit and os.environ.get("KUBERNETES_SERVICE_HOST"):
        config.load_incluster_config(configuration)  # type: ignore[no-untyped-call]
        return configuration
    if not explicit and not home.is_file():
        raise SettingsError(
            "KUBECONFIG",
            "not set, and neither a pod's service account nor ~/.kube/config is here",
            "run inside a cluster, or name a kubeconfig file",
        )
    # Nothing is written back: the file is the user's, and usually mounted read-only.
    config.load_kube_config(  # type: ignore[no-untyped-call]
        config_file=settings.kubeconfig or str(home),
        context=settings.kubernetes_context or None,
        client_configuration=configuration,
        persist_config=False,
    )
    return configuration


def _tls(configuration: Any) -> ssl.SSLContext | bool:
    if not configuration.host.startswith("https"):
        return True
    context = ssl.create_default_context(cafile=configuration.ssl_ca_cert or None)
    # Python 3.13 began to refuse authorities without a key identifier, which clusters have
    # (EKS, microk8s). The chain and the name are still verified.
    context.verify_flags &= ~ssl.VERIFY_X509_STRICT
    if configuration.cert_file:
        context.load_cert_chain(configuration.cert_file, configuration.key_file)
    if not configuration.verify_ssl:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


def _proxy(configuration: Any) -> str | None:
    """Return the kubeconfig's proxy, or the environment's unless it exempts the server."""
    from kubernetes.client.rest import should_bypass_proxies

    exempt = should_bypass_proxies(configuration.host, configuration.no_proxy or "")
    return None if exempt else configuration.proxy


def _configuration_errors() -> tuple[type[BaseException], ...]:
    """Return what the package raises for files that are absent, malformed or incomplete."""
    import yaml
    from kubernetes.config import ConfigException

    return ConfigException, yaml.YAMLError, OSError, ssl.SSLError, ValueError, TypeError, KeyError


def _describe(settings: KubernetesSettings, error: BaseException) -> tuple[str, str]:
    """Return the variable that is to blame, and the problem with it."""
    variable = f"KUBECONFIG={settings.kubeconfig}" if settings.kubeconfig else "KUBECONFIG"
    return variable, f"cannot be used ({' '.join(str(error).split())})"
