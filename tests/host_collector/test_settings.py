"""The settings of the host collector."""

from __future__ import annotations

import pytest

from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.settings import SettingsError, load_settings


def test_settings_carry_the_names_of_the_sematext_agent() -> None:
    settings = load_settings(
        HostSettings,
        {
            "PKG_INTERVAL": "5m",
            "PKG_CONTAINER_ENABLED": "false",
            "PKG_KINDS": "deb, node",
            "PKG_PATHS": "/srv/app",
        },
    )
    assert float(settings.pkg_interval) == 300
    assert not settings.pkg_container_enabled
    assert (settings.pkg_kinds, settings.pkg_paths) == (("deb", "node"), ("/srv/app",))
    with pytest.raises(SettingsError, match=r"^PKG_INTERVAL=0\.5s: is below a second; "):
        load_settings(HostSettings, {"PKG_INTERVAL": "500ms"})
    with pytest.raises(SettingsError, match="PKG_KINDS=pip"):
        load_settings(HostSettings, {"PKG_KINDS": "pip"})
