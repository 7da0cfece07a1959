"""The forwarder's settings from its environment, with the Sematext Agent's names where it has one.

The token stands in the path of the receiver's address, so that address is built only here, and
`redact` takes every secret out of a text before anybody sees it.
"""

from __future__ import annotations

import ipaddress
import re
from typing import ClassVar
from urllib.parse import SplitResult, quote, urlsplit

from sematext_agent.shared.settings import Duration, Port, Secret, ServiceSettings, SettingsError

RECEIVERS = {
    "US": "https://event-receiver.sematext.com",
    "EU": "https://event-receiver.eu.sematext.com",
}
"""The base address of the event receiver by region."""
_TAG_CHARACTERS_MAX = 1024
"""Bound of a name and of a value: https://sematext.com/docs/tags/custom-tags/"""
_tag = re.compile(r"[A-Za-z0-9_\-=+.]+(:[A-Za-z0-9_\-=+.]*)?")
_host = re.compile(r"[A-Za-z0-9._-]+|\[?[0-9a-fA-F:]+\]?")
_domain = re.compile(r"[A-Za-z0-9_-]*")
STREAM_BYTES_MIN = 1024 * 1024
_REDACTED = "********"


class ForwarderSettings(ServiceSettings, frozen=True, kw_only=True):
    """The forwarder's settings, beside those of every service."""

    variable_pattern: ClassVar[str] = (
        "INFRA_|LOGS_|TRACES_|AIMONITORING_|EVENTS_|PROXY_|LOGGING_|JOURNAL_|PIPELINE_"
        "|SERVER_BASE_URL|COMMAND_SERVER_URL|CONFIG_FILE"
    )

    infra_token: Secret = Secret("")
    """The token of the Infra App. Without one every document is printed instead of sent."""
    region: str = "US"
    """The receiver's region: `US` or `EU`."""
    events_receiver_url: str = ""
    """Base address of another receiver, without token and path."""
    events_receiver_ca: str = ""
    """PEM file of the authority that signed the receiver's certificate; the system's by default."""
    events_receiver_allow_http: bool = False
    """Permission for `http://` to another machine, where the token is readable on the way."""
    proxy_host: str = ""
    proxy_port: Port = 3128
    proxy_username: str = ""
    proxy_password: Secret = Secret("")
    proxy_secure: bool = False
    """TLS to the proxy itself."""
    tags: tuple[str, ...] = ()
    """Tags such as `env:dev, role:web` on every document, beside the forwarder's own."""
    logging_write_events: bool = False
    """Output of every document that is sent."""
    logging_request_tracking: bool = False
    """A log line for every request with its answer."""
    connect_timeout: Duration = Duration(10)
    request_timeout: Duration = Duration(30)
    """Bound from the first byte sent to the last byte of the answer."""
    stream_bytes_max: int = 1024 * 1024 * 1024
    """Bytes that the stream of events may have on disk; at the bound it refuses new events, which
    wait at their source."""
    dead_bytes_max: int = 64 * 1024 * 1024
    """Bytes that the dead-letter stream may have; at the bound the oldest are dropped."""
    cursors_bytes_max: int = 64 * 1024 * 1024
    """Bytes that the collectors' cursors of all hosts may have; at the bound they stay where they
    are, and a restarted collector publishes events again that the stream may not recognize."""
    stream_replicas: int = 1
    """Servers of a NATS cluster on which each stream is stored: 1, 3 or 5."""
    nats_domain: str = ""
    """The JetStream domain of the leaf node to deliver from; empty for the broker's own."""

    def __post_init__(self) -> None:
        _check_token(self.infra_token.reveal())
        if self.region.upper() not in RECEIVERS:
            raise SettingsError(f"REGION={self.region}", "no such region", "set it to US or EU")
        if self.events_receiver_url:
            self._check_receiver(self.events_receiver_url)
        if self.proxy_host and not _host.fullmatch(self.proxy_host):
            raise SettingsError(
                f"PROXY_HOST={_without_userinfo(self.proxy_host)}",
                "not a host's name or address",
                "name the host alone; PROXY_PORT and PROXY_SECURE say the rest",
            )
        for tag in self.tags:
            _check_tag(tag)
        if self.stream_replicas not in (1, 3, 5):
            raise SettingsError(
                f"STREAM_REPLICAS={self.stream_replicas}", "not possible", "set it to 1, 3 or 5"
            )
        if not _domain.fullmatch(self.nats_domain):
            raise SettingsError(
                f"NATS_DOMAIN={self.nats_domain}",
                "no name of a JetStream domain",
                "write it as in the leaf node's configuration: letters, digits, _ and -",
            )
        for name in ("stream_bytes_max", "dead_bytes_max", "cursors_bytes_max"):
            if (size := getattr(self, name)) < STREAM_BYTES_MIN:
                raise SettingsError(
                    f"{name.upper()}={size}",
                    "too small to be of use",
                    f"set it to {STREAM_BYTES_MIN} bytes at least",
                )

    def _check_receiver(self, url: str) -> None:
        try:
            parts = urlsplit(url)
            parts.port  # noqa: B018 - it raises for a port that is none
            problem, remedy = self._problem_of(url, parts)
        except ValueError as error:
            problem, remedy = str(error), f"write it like {RECEIVERS['US']}"
        if problem:
            shown = self.redact(_without_userinfo(url))
            raise SettingsError(f"EVENTS_RECEIVER_URL={shown}", problem, remedy)

    def _problem_of(self, url: str, parts: SplitResult) -> tuple[str, str]:
        """Return the problem of the receiver's address and its remedy; empty texts if valid."""
        token = self.infra_token.reveal()
        if parts.scheme not in ("http", "https") or not parts.hostname:
            return "not an address", f"write it like {RECEIVERS['US']}"
        if (token and token in url) or parts.path.rstrip("/").endswith("/event"):
            return "more than a base address", "leave out the token and all that follows it"
        if parts.username is not None or parts.query or parts.fragment:
            return "more than a base address", "keep scheme, host, port and path alone"
        if not url.isascii() or not url.isprintable() or " " in url:
            return "it holds characters that no address has", "correct it"
        if parts.scheme == "http" and not self._plain_http_is_safe(parts.hostname):
            return (
                "plain http would show the token to the network",
                "use https, or set EVENTS_RECEIVER_ALLOW_HTTP=true",
            )
        return "", ""

    def _plain_http_is_safe(self, host: str) -> bool:
        if self.events_receiver_allow_http or host == "localhost":
            return True
        try:
            return ipaddress.ip_address(host).is_loopback
        except ValueError:
            return False

    @property
    def receiver(self) -> str:
        """The base address of the receiver, safe to show."""
        return (self.events_receiver_url or RECEIVERS[self.region.upper()]).rstrip("/")

    @property
    def address(self) -> Secret:
        """The whole address that events are posted to: it holds the token."""
        return Secret(f"{self.receiver}/{self.infra_token.reveal()}/event")

    def redact(self, text: str) -> str:
        """Return `text` without the secrets that may stand in it, plain or URL-quoted."""
        for secret in (self.infra_token.reveal(), self.proxy_password.reveal()):
            for written in {secret, quote(secret, safe="")} if secret else ():
                text = re.sub(re.escape(written), _REDACTED, text, flags=re.IGNORECASE)
        return text


def _check_token(token: str) -> None:
    if token and not re.fullmatch(r"[A-Za-z0-9_-]+", token):
        # The token itself is not shown, however wrong it is.
        raise SettingsError(
            "INFRA_TOKEN",
            "it holds characters that no token has",
            "copy the token of the Infra App again, without quotes and blanks",
        )


def _check_tag(tag: str) -> None:
    if not _tag.fullmatch(tag) or max(map(len, tag.split(":"))) > _TAG_CHARACTERS_MAX:
        raise SettingsError(
            f"TAGS={tag[:100]}",
            "not a tag",
            "write it as name:value with letters, digits and _ - = + .",
        )


def _without_userinfo(url: str) -> str:
    """Return `https://user:password@host` with asterisks in place of the userinfo."""
    return re.sub(r"[^/@]*@", f"{_REDACTED}@", url)
