"""The settings of the Docker collector, with the Sematext Agent's names."""

from __future__ import annotations

import re
from pathlib import Path
from typing import ClassVar

from docker.errors import DockerException
from docker.utils import parse_host

from sematext_agent.shared.settings import ServiceSettings, SettingsError

CATEGORIES = (
    "container",
    "image",
    "volume",
    "network",
    "plugin",
    "daemon",
    "builder",
    "service",
    "node",
    "secret",
    "config",
)
"""The types of objects that have events (Engine API, `GET /events`)."""

_PATTERNS = (
    "container_match_by_image",
    "container_match_by_name",
    "container_skip_by_image",
    "container_skip_by_name",
)


class DockerSettings(ServiceSettings, frozen=True, kw_only=True):
    """The settings of the Docker collector."""

    variable_pattern: ClassVar[str] = "CONTAINER_"

    docker_transport: str = ""
    """Address of the engine: `unix:///var/run/docker.sock` or `tcp://host:2376`. Unset, the one
    that the docker command uses: DOCKER_HOST, the current context, or the usual socket."""
    docker_host: str = ""
    docker_cert_path: str = ""
    """Folder of `ca.pem`, `cert.pem` and `key.pem`: TLS to an engine on `tcp://`, with its
    certificate verified."""
    container_events_enabled: bool = True
    container_events_excluded: tuple[str, ...] = ()
    """Excluded categories: see CATEGORIES."""
    container_events_actions_excluded: tuple[str, ...] = ()
    """Excluded actions: `top`, `exec_start`, or of one category, `volume.mount`."""
    container_events_healthchecks: bool = False
    """Include the execs of health checks. `health_status` is included in any case."""
    container_match_by_image: str = ""
    """Comma-separated regular expressions, found anywhere in the image's name; where set, other
    containers are excluded. Nothing is matched or skipped by default: the death of the agent's own
    container is an event too."""
    container_match_by_name: str = ""
    container_skip_by_image: str = ""
    container_skip_by_name: str = ""

    def __post_init__(self) -> None:
        for category in self.container_events_excluded:
            if category.lower() not in CATEGORIES:
                raise SettingsError(
                    f"CONTAINER_EVENTS_EXCLUDED={category}",
                    "no such category",
                    f"name some of {', '.join(CATEGORIES)}",
                )
        for field in _PATTERNS:
            parse_patterns(field, getattr(self, field))
        for field in ("docker_transport", "docker_host"):
            _check_address(field.upper(), getattr(self, field))
        for name in ("ca.pem", "cert.pem", "key.pem"):
            if self.docker_cert_path and not Path(self.docker_cert_path, name).is_file():
                raise SettingsError(
                    f"DOCKER_CERT_PATH={self.docker_cert_path}",
                    f"holds no {name}",
                    "name a folder with ca.pem, cert.pem and key.pem",
                )


def parse_patterns(field: str, text: str) -> list[re.Pattern[str]]:
    """Return the regular expressions in a comma-separated list.

    Raises:
        SettingsError: one of them is no regular expression.
    """
    patterns = []
    # The comma in `a{1,2}` belongs to its expression.
    for part in re.split(r",(?![^{]*\})", text):
        try:
            if part.strip():
                patterns.append(re.compile(part.strip()))
        except re.error as error:
            raise SettingsError(
                f"{field.upper()}={text}",
                f"{part.strip()} is no regular expression ({error})",
                "list texts or regular expressions, separated by commas",
            ) from None
    return patterns


def _check_address(variable: str, address: str) -> None:
    if not address:
        return
    problem = ""
    try:
        if not parse_host(address).startswith(("http+unix://", "http://", "https://")):
            problem = "only unix:// and tcp:// are supported"
    except (DockerException, ValueError) as error:
        problem = str(error)
    if problem:
        raise SettingsError(
            f"{variable}={address}",
            problem,
            "write it like unix:///var/run/docker.sock or tcp://host:2376",
        )
