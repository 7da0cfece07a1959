"""The settings of the host collector."""

from __future__ import annotations

from typing import ClassVar, Literal

from sematext_agent.shared.settings import Duration, ServiceSettings, SettingsError


class HostSettings(ServiceSettings, frozen=True, kw_only=True):
    """What every service reads, and what of the host shall be told."""

    variable_pattern: ClassVar[str] = "PKG_|CONFIGS_|OOM_"

    oom_enabled: bool = True
    """Tell the processes that the kernel's out-of-memory killer ends."""
    pkg_enabled: bool = True
    """Tell the packages that are installed and removed."""
    pkg_container_enabled: bool = True
    """The same inside running containers."""
    pkg_interval: Duration = Duration(600)
    """How often everything is read anew, besides what is seen at once."""
    pkg_kinds: tuple[Literal["deb", "rpm", "node", "python2", "python3"], ...] = (
        "deb",
        "rpm",
        "node",
        "python2",
        "python3",
    )
    """Which packages to tell."""
    pkg_paths: tuple[str, ...] = ()
    """Further directories of the host that hold packages: a `site-packages`, a `node_modules`, a
    virtual environment, a project, a database of dpkg or rpm."""

    def __post_init__(self) -> None:
        if self.pkg_interval < 1:
            raise SettingsError(
                f"PKG_INTERVAL={self.pkg_interval:g}s", "is below a second", "write it like 10m"
            )
