"""The settings of this service, beside those that every service reads."""

from __future__ import annotations

from sematext_agent.shared.settings import Duration, ServiceSettings, SettingsError


class LifecycleSettings(ServiceSettings, frozen=True, kw_only=True):
    agent_run: str = ""
    """Names this run of the agent, where something starts all its parts together: this part may
    then restart within the run, unnoticed. Empty: one process of this part is one run."""
    heartbeat_interval: Duration = Duration(10)
    """How often the record of the run is renewed: how exact the time of an unclean stop is."""
    host_facts_interval: Duration = Duration(3600)
    """How often the facts of the host are looked up again."""
    cloud_metadata_enabled: bool = True
    """Whether the cloud's metadata service is asked; no packet goes to it where this is off."""
    cloud_metadata_url: str = "http://169.254.169.254"
    """The link-local address that AWS, Google Cloud and Azure share."""

    def __post_init__(self) -> None:
        for name in ("heartbeat_interval", "host_facts_interval"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name.upper()}=0", "never ends", "write it like 10s or 1h")
        if not self.cloud_metadata_url.startswith("http://"):
            raise SettingsError(
                f"CLOUD_METADATA_URL={self.cloud_metadata_url}",
                "is not an http:// address",
                "correct it, or set CLOUD_METADATA_ENABLED=false",
            )
