"""TLS to the broker, from the settings."""

from __future__ import annotations

import ssl

from sematext_agent.shared.settings import ServiceSettings, SettingsError


def tls_context(settings: ServiceSettings) -> ssl.SSLContext | None:
    """Return the context for TLS, or None where the settings do not ask for it.

    Raises:
        SettingsError: a file of keys or certificates cannot be used.
    """
    if not (settings.nats_ca or settings.nats_cert or _asks_for_tls(settings.nats_url)):
        return None
    try:
        context = ssl.create_default_context(cafile=settings.nats_ca or None)
    except (OSError, ssl.SSLError) as error:
        raise SettingsError(
            f"NATS_CA={settings.nats_ca}", f"cannot be used ({error})", "name a PEM file"
        ) from None
    if settings.nats_cert:
        try:
            # Without this empty password OpenSSL would prompt for one on the terminal.
            context.load_cert_chain(settings.nats_cert, settings.nats_key or None, password="")
        except (OSError, ssl.SSLError) as error:
            raise SettingsError(
                f"NATS_CERT={settings.nats_cert}",
                f"cannot be used with its key ({error})",
                "name PEM files of a certificate and of its key, not encrypted",
            ) from None
    return context


def _asks_for_tls(urls: tuple[str, ...]) -> bool:
    return any(url.startswith("tls://") for url in urls)
