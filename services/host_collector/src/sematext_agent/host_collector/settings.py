"""The settings of the host collector."""

from __future__ import annotations

from typing import ClassVar, Literal

from sematext_agent.shared.settings import Duration, ServiceSettings, SettingsError


class HostSettings(ServiceSettings, frozen=True, kw_only=True):
    """The settings of every service, and which sources of the host are watched."""

    variable_pattern: ClassVar[str] = "PKG_|CONFIGS_|OOM_"

    oom_enabled: bool = True
    """Emit an event for each process that the kernel's out-of-memory killer ends."""
    pkg_enabled: bool = True
    """Emit an event for each package that is installed or removed on the host."""
    pkg_container_enabled: bool = True
    """Do the same inside running containers."""
    pkg_interval: Duration = Duration(600)
    """Interval of full rescans; changes are usually seen at once."""
    pkg_kinds: tuple[Literal["deb", "rpm", "node", "python2", "python3"], ...] = (
        "deb",
        "rpm",
        "node",
        "python2",
        "python3",
    )
    """Kinds of packages to watch."""
    pkg_paths: tuple[str, ...] = ()
    """Further directories of the host that hold packages: a `site-packages`, a `node_modules`, a
    virtual environment, a project, a database of dpkg or rpm."""

    def __post_init__(self) -> None:
        if self.pkg_interval < 1:
            raise SettingsError(
                f"PKG_INTERVAL={self.pkg_interval:g}s", "is below a second", "write it like 10m"
            )
