"""Settings: environment variables, read once at start into a frozen struct.

A field is named as its variable, in small letters: `nats_url` is `NATS_URL`. The variables carry
the Sematext Agent's own names wherever it has one, so that an existing environment works unchanged.
A `Secret` may come from a file instead: `INFRA_TOKEN_FILE=/run/secrets/token`.
"""

from __future__ import annotations

import re
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, get_origin, get_type_hints
from urllib.parse import urlsplit

import msgspec


class SettingsError(Exception):
    """A setting that cannot be used, as one line: the variable, the problem and the remedy."""

    def __init__(self, variable: str, problem: str, remedy: str) -> None:
        """Make one line of the three."""
        super().__init__(f"{variable}: {problem}; {remedy}")


class Secret:
    """A text that only `reveal` shows, and its repr never does.

    A library that was handed the text may repeat it in its errors: those go through the log, which
    removes it, see `shared.logs`.
    """

    def __init__(self, text: str) -> None:
        """Hide `text`."""
        self._text = text

    def reveal(self) -> str:
        """Return the text itself."""
        return self._text

    def __bool__(self) -> bool:
        """Return whether there is a text at all."""
        return bool(self._text)

    def __repr__(self) -> str:
        """Return eight stars for any text."""
        return "********" if self._text else "''"


class Duration(float):
    """Seconds, written `30`, `30s`, `10m`, `1h` or `250ms`."""

    _units: dict[str, float] = {"ms": 0.001, "": 1, "s": 1, "m": 60, "h": 3600}  # noqa: RUF012

    @classmethod
    def parse(cls, text: str) -> Duration:
        """Return the duration of the written form. Raises ValueError for another form."""
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|)", text.strip())
        if match is None:
            raise ValueError("expected a duration")
        return cls(float(match[1]) * cls._units[match[2]])


Port = Annotated[int, msgspec.Meta(ge=0, le=65535)]


class ServiceSettings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of every service; a service's own settings inherit these."""

    variable_pattern: ClassVar[str] = ""
    """A regular expression for the start of the variables that belong to this service. Each start
    belongs to one service, so that an unknown name is reported once: see
    `find_unknown_variables`."""

    nats_url: tuple[str, ...] = ("nats://127.0.0.1:4222",)
    """The broker; several servers of one cluster, comma-separated. `tls://` asks for TLS."""
    nats_user: str = ""
    nats_password: Secret = Secret("")
    nats_ca: str = ""
    """PEM file of the authority that signed the broker's certificate; the system's by default.
    Where it is set, as with `tls://`, a broker without TLS is refused."""
    nats_cert: str = ""
    """PEM file of the certificate for a broker that verifies its clients."""
    nats_key: str = ""
    """PEM file of its key, where that is not in the same file."""
    hostname_alias: str = ""
    """Reported as the host's name instead of its own."""
    node_name: str = ""
    """The Kubernetes node, from the downward API: the host's name where no alias is set."""
    host_root: str = ""
    """Mount point of the host's file system, when the service runs in a container."""
    api_server_host: str = "127.0.0.1"
    """Address of health and metrics; `0.0.0.0` in a container."""
    api_server_port: Port = 0
    """0 takes any free port, which the log names."""
    logging_level: Literal["debug", "info", "warning", "error"] = "info"
    drain_seconds: Duration = Duration(10)
    """Time that a stopping service has for the events it holds."""

    @property
    def secrets(self) -> tuple[str, ...]:
        """The texts to hide: those of the secrets, and the passwords in `nats_url`."""
        values = (getattr(self, name) for name in self.__struct_fields__)
        secrets = (value.reveal() for value in values if isinstance(value, Secret) and value)
        urls = (re.findall(r"//(?:[^/@:]*:)?([^/@]+)@", url) for url in self.nats_url)
        return (*secrets, *(password for passwords in urls for password in passwords))

    @property
    def hostname(self) -> str:
        """The host's name: the alias, the node, the mounted host's own, or this machine's."""
        if self.hostname_alias or self.node_name:
            return self.hostname_alias or self.node_name
        if self.host_root:
            name = Path(self.host_root, "etc/hostname")
            if name.is_file() and (text := name.read_text().strip()):
                return text
        return socket.gethostname()


# The Sematext Agent writes its levels the way logrus does.
_SYNONYMS = {
    "logging_level": {"warn": "warning", "trace": "debug", "fatal": "error", "panic": "error"},
}
_BOOLEANS = {"true": "true", "on": "true", "yes": "true", "1": "true"} | {
    "false": "false",
    "off": "false",
    "no": "false",
    "0": "false",
}

S = TypeVar("S", bound=ServiceSettings)


def load_settings(settings_type: type[S], environ: Mapping[str, str]) -> S:
    """Return the settings that `environ` holds. An empty variable counts as unset.

    Raises:
        SettingsError: the first variable that cannot be used, with the remedy.
    """
    types = get_type_hints(settings_type, include_extras=True)
    values = {}
    for field in msgspec.structs.fields(settings_type):
        text = _read_text(field.name.upper(), types[field.name], environ)
        if text is not None:
            values[field.name] = _convert(field.name, types[field.name], text)
    settings = settings_type(**values)
    for url in settings.nats_url or ("",):
        _check_broker(url)
    return settings


def find_unknown_variables(
    settings_type: type[ServiceSettings], environ: Mapping[str, str]
) -> list[str]:
    """Return the variables that match the service's pattern but are none of its settings."""
    names = {field.name.upper() for field in msgspec.structs.fields(settings_type)}
    return sorted(
        name
        for name, text in environ.items()
        if text
        and settings_type.variable_pattern
        and re.match(settings_type.variable_pattern, name)
        and name not in names
        and name.removesuffix("_FILE") not in names
    )


def _check_broker(url: str) -> None:
    """Refuse an address that no broker can have: the client would wait for it for ever."""
    try:
        parts = urlsplit(url if "://" in url else f"nats://{url}")
        is_broker = parts.scheme in ("nats", "tls") and parts.hostname and parts.port != 0
        problem = "" if is_broker else "not the address of a broker"
    except ValueError as error:
        problem = _describe_error(error)
    if problem:
        raise SettingsError(
            f"NATS_URL={redact_userinfo(url)}", problem, "write it like nats://127.0.0.1:4222"
        )


def redact_userinfo(url: str) -> str:
    """Return `nats://user:password@host` as `nats://********@host`."""
    return re.sub(r"(?<=//).*@|^.*@", "********@", url)


def _read_text(variable: str, wanted: Any, environ: Mapping[str, str]) -> str | None:
    """Return the variable's text; of a secret, also from the file that `<variable>_FILE` names."""
    text = environ.get(variable) or None
    path = environ.get(f"{variable}_FILE") if wanted is Secret else None
    if not path:
        return text
    if text is not None:
        raise SettingsError(variable, f"{variable}_FILE is set too", "keep one of the two")
    try:
        secret = Path(path).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(
            f"{variable}_FILE={path}", f"cannot be read ({error})", "name a readable text file"
        ) from None
    if not secret:
        raise SettingsError(
            f"{variable}_FILE={path}", "the file is empty", "write the secret into it"
        )
    return secret


def _convert(name: str, wanted: Any, text: str) -> Any:
    """Return `text` as the field's type."""
    value: Any = text.strip()
    if wanted is Secret:
        return Secret(value)
    if wanted is bool:
        value = _BOOLEANS.get(value.lower(), value)
    elif get_origin(wanted) is tuple:
        value = tuple(part.strip() for part in value.split(",") if part.strip())
    elif name in _SYNONYMS:
        value = _SYNONYMS[name].get(value.lower(), value.lower())
    try:
        return msgspec.convert(value, wanted, strict=False, dec_hook=_decode_custom)
    except (msgspec.ValidationError, ValueError) as error:
        raise SettingsError(
            f"{name.upper()}={text}", _describe_error(error), _suggest_remedy(wanted)
        ) from None


def _decode_custom(wanted: type, value: Any) -> Any:
    if wanted is Duration:
        return Duration.parse(value)
    raise TypeError(f"no setting is of type {wanted}")


def _describe_error(error: Exception) -> str:
    text = str(error)
    return text[:1].lower() + text[1:].replace("`", "")


def _suggest_remedy(wanted: Any) -> str:
    if wanted is bool:
        return "set it to true or false"
    if wanted is Duration:
        return "write it like 30s, 10m or 1h"
    if wanted is Port:
        return "set it to a port between 0 and 65535"
    if get_origin(wanted) is Literal:
        return f"set it to one of {', '.join(wanted.__args__)}"
    return "set it to a whole number" if wanted is int else "correct it or unset it"
