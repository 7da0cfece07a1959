"""Settings: how each type is read, and the one line for each kind of mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.shared.settings import (
    Duration,
    Secret,
    ServiceSettings,
    SettingsError,
    load_settings,
)


class Settings(ServiceSettings, frozen=True, kw_only=True):
    token: Secret = Secret("")
    interval: Duration = Duration(600)
    enabled: bool = True
    names: tuple[str, ...] = ()
    count: int = 1


def test_unset_and_empty_variables_are_the_defaults() -> None:
    assert load_settings(Settings, {}).interval == Duration(600)
    assert load_settings(Settings, {"COUNT": "", "NAMES": ""}).count == 1


def test_every_type_of_setting_is_read() -> None:
    settings = load_settings(
        Settings,
        {
            "TOKEN": "t",
            "INTERVAL": "10m",
            "ENABLED": "off",
            "NAMES": "a, b ,,c",
            "COUNT": "7",
            "LOGGING_LEVEL": "WARN",
        },
    )
    assert settings.token.reveal() == "t"
    assert (settings.interval, settings.enabled, settings.count) == (Duration(600), False, 7)
    assert settings.names == ("a", "b", "c")
    assert settings.logging_level == "warning"


@pytest.mark.parametrize(
    ("variable", "value", "line"),
    [
        ("API_SERVER_PORT", "eighty", "expected int, got str; set it to a port between 0"),
        ("API_SERVER_PORT", "70000", "expected int <= 65535; set it to a port between 0"),
        ("LOGGING_LEVEL", "loud", "invalid enum value 'loud'; set it to one of debug, info"),
        ("INTERVAL", "soon", "expected a duration; write it like 30s"),
        ("ENABLED", "maybe", "expected bool, got str; set it to true or false"),
        ("NATS_URL", "http://broker", "not the address of a broker; write it like nats://"),
        ("NATS_URL", "nats://broker:99999", "port out of range 0-65535; write it like nats://"),
        ("COUNT", "many", "expected int, got str; set it to a whole number"),
    ],
)
def test_a_mistake_is_one_line_with_the_variable_and_the_remedy(
    variable: str, value: str, line: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(Settings, {variable: value})
    text = str(caught.value)
    assert text.startswith(f"{variable}={value}: {line}")
    assert "\n" not in text


def test_a_broker_is_required_and_its_password_is_never_shown() -> None:
    with pytest.raises(SettingsError, match=r"^NATS_URL=: not the address of a broker; "):
        load_settings(Settings, {"NATS_URL": ","})
    with pytest.raises(SettingsError) as caught:
        load_settings(Settings, {"NATS_URL": "nats://good:4222,http://me:pass/word@broker"})
    assert "word" not in str(caught.value)
    assert load_settings(Settings, {"NATS_URL": "broker:4222,tls://me:pw@[::1]"}).nats_url


def test_a_secret_comes_from_a_file_and_is_never_shown(tmp_path: Path) -> None:
    path = tmp_path / "token"
    path.write_text("the-secret\n")
    settings = load_settings(Settings, {"TOKEN_FILE": str(path)})
    assert settings.token.reveal() == "the-secret"
    assert "the-secret" not in f"{settings} {settings.token} {settings.token!r}"


@pytest.mark.parametrize(
    ("content", "line"),
    [("", "the file is empty; write the secret"), (None, "cannot be read"), (b"\xff", "cannot be")],
)
def test_an_unusable_secret_file_is_one_line(
    tmp_path: Path, content: str | bytes | None, line: str
) -> None:
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(SettingsError, match=line):
        load_settings(Settings, {"TOKEN_FILE": str(path)})


def test_a_secret_from_both_variable_and_file_is_refused() -> None:
    with pytest.raises(SettingsError, match="TOKEN: TOKEN_FILE is set too; keep one of the two"):
        load_settings(Settings, {"TOKEN": "t", "TOKEN_FILE": "/dev/null"})


def test_the_hostname_is_the_alias_else_the_node_else_that_of_the_mounted_host(
    tmp_path: Path,
) -> None:
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("mounted\n")
    environ = {"HOST_ROOT": str(tmp_path)}
    assert load_settings(Settings, environ).hostname == "mounted"
    assert load_settings(Settings, environ | {"NODE_NAME": "node"}).hostname == "node"
    assert (
        load_settings(Settings, {"NODE_NAME": "node", "HOSTNAME_ALIAS": "alias"}).hostname
        == "alias"
    )
