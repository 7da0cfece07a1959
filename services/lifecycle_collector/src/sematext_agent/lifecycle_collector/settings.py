"""The settings of this service, beside those that every service reads."""

from __future__ import annotations

from sematext_agent.shared.settings import Duration, ServiceSettings, SettingsError


class LifecycleSettings(ServiceSettings, frozen=True, kw_only=True):
    """The settings of the lifecycle collector."""

    agent_run: str = ""
    """Name of this run of the agent, from whoever starts all its services together: this service
    may restart within the run without an event. Empty: one process of this service is one run."""
    heartbeat_interval: Duration = Duration(10)
    """Interval of the heartbeat, which is the error of the time of an unclean stop."""
    host_facts_interval: Duration = Duration(3600)
    """Interval between two readings of the facts of the host."""
    cloud_metadata_enabled: bool = True
    """Asks the metadata service of the cloud; without it no packet goes there."""
    cloud_metadata_url: str = "http://169.254.169.254"
    """The link-local address that AWS, Google Cloud and Azure share."""

    def __post_init__(self) -> None:
        """Reject intervals of 0 and addresses that are not http://."""
        for name in ("heartbeat_interval", "host_facts_interval"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"{name.upper()}=0", "never ends", "write it like 10s or 1h")
        if not self.cloud_metadata_url.startswith("http://"):
            raise SettingsError(
                f"CLOUD_METADATA_URL={self.cloud_metadata_url}",
                "is not an http:// address",
                "correct it, or set CLOUD_METADATA_ENABLED=false",
            )
