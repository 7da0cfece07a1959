"""Wrong settings stop at start, in one line that names the variable and the remedy."""

from __future__ import annotations

from pathlib import Path

import pytest
from receiver import TOKEN

from sematext_agent.forwarder.settings import ForwarderSettings
from sematext_agent.shared.settings import SettingsError, load_settings


def settings(**environ: str) -> ForwarderSettings:
    return load_settings(ForwarderSettings, environ)


def test_environment_of_the_sematext_agent() -> None:
    read = settings(
        INFRA_TOKEN=TOKEN,
        REGION="eu",
        TAGS="env:dev, role:web",
        PROXY_HOST="proxy.local",
        PROXY_PORT="8080",
        PROXY_USERNAME="u",
        PROXY_PASSWORD="p",
        PROXY_SECURE="true",
        HOSTNAME_ALIAS="alias",
        LOGGING_LEVEL="debug",
        LOGGING_WRITE_EVENTS="true",
        LOGGING_REQUEST_TRACKING="false",
    )
    assert read.receiver == "https://event-receiver.eu.sematext.com"
    assert read.address.reveal() == f"https://event-receiver.eu.sematext.com/{TOKEN}/event"
    assert read.tags == ("env:dev", "role:web")
    assert (read.proxy_secure, read.logging_write_events) == (True, True)


def test_defaults_are_the_american_receiver_and_a_dry_run() -> None:
    read = settings()
    assert not read.infra_token
    assert read.receiver == "https://event-receiver.sematext.com"


def test_own_receiver_with_a_path() -> None:
    read = settings(INFRA_TOKEN=TOKEN, EVENTS_RECEIVER_URL="https://sematext.example.org/in/")
    assert read.address.reveal() == f"https://sematext.example.org/in/{TOKEN}/event"


def test_the_token_can_come_from_a_file(tmp_path: Path) -> None:
    (tmp_path / "token").write_text(f"{TOKEN}\n")
    assert settings(INFRA_TOKEN_FILE=str(tmp_path / "token")).infra_token.reveal() == TOKEN


@pytest.mark.parametrize(
    ("environ", "message"),
    [
        ({"REGION": "ASIA"}, "REGION=ASIA: no such region; set it to US or EU"),
        ({"INFRA_TOKEN": "<YOUR_TOKEN>"}, "INFRA_TOKEN: it holds characters that no token has; "),
        ({"EVENTS_RECEIVER_URL": "event-receiver.sematext.com"}, "not an address; write it like"),
        ({"EVENTS_RECEIVER_URL": "ftp://example.org"}, "not an address; "),
        ({"EVENTS_RECEIVER_URL": "https://"}, "not an address; "),
        ({"EVENTS_RECEIVER_URL": "https://example.org:99999"}, "ort out of range 0-65535; "),
        ({"EVENTS_RECEIVER_URL": "https://example.org:x"}, "EVENTS_RECEIVER_URL=https://example"),
        ({"EVENTS_RECEIVER_URL": "https://e.org/?a=b"}, "more than a base address; "),
        ({"EVENTS_RECEIVER_URL": "http://example.org"}, "set EVENTS_RECEIVER_ALLOW_HTTP=true"),
        ({"EVENTS_RECEIVER_URL": "http://10.0.0.1:80"}, "plain http would show the token"),
        ({"PROXY_HOST": "http://proxy"}, "PROXY_HOST=http://proxy: not a host's name"),
        ({"PROXY_PORT": "eighty"}, "PROXY_PORT=eighty: "),
        ({"TAGS": "env:dev, rôle"}, "TAGS=rôle: not a tag; write it as name:value"),
        ({"TAGS": "x" * 1025}, "not a tag; "),
        (
            {"NATS_DOMAIN": "site.a"},
            "NATS_DOMAIN=site.a: no name of a JetStream domain; "
            "write it as in the leaf node's configuration: letters, digits, _ and -",
        ),
        (
            {"CURSORS_BYTES_MAX": "1"},
            "CURSORS_BYTES_MAX=1: too small to be of use; set it to 1048576 bytes at least",
        ),
        ({"STREAM_REPLICAS": "2"}, "STREAM_REPLICAS=2: not possible; set it to 1, 3 or 5"),
        ({"STREAM_BYTES_MAX": "10"}, "STREAM_BYTES_MAX=10: too small to be of use; "),
        ({"LOGGING_WRITE_EVENTS": "maybe"}, "LOGGING_WRITE_EVENTS=maybe: "),
    ],
)
def test_a_bad_value_is_one_line_with_variable_problem_and_remedy(
    environ: dict[str, str], message: str
) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(**environ)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "[::1]"])
def test_plain_http_is_allowed_on_this_machine(host: str) -> None:
    assert settings(EVENTS_RECEIVER_URL=f"http://{host}:8080")


def test_plain_http_elsewhere_only_when_asked_for() -> None:
    assert settings(EVENTS_RECEIVER_URL="http://receiver.local", EVENTS_RECEIVER_ALLOW_HTTP="true")


@pytest.mark.parametrize(
    "url",
    [
        f"https://event-receiver.sematext.com/{TOKEN}/event",
        f"https://event-receiver.sematext.com/{TOKEN}",
        f"https://{TOKEN}@event-receiver.sematext.com",
        f"https://example.org:99999/{TOKEN}",
        f"http://example.org/?{TOKEN.upper()}",
    ],
)
def test_no_error_shows_the_token(url: str) -> None:
    with pytest.raises(SettingsError) as raised:
        settings(EVENTS_RECEIVER_URL=url, INFRA_TOKEN=TOKEN)
    assert TOKEN not in str(raised.value).lower()


def test_secrets_do_not_show_in_the_settings_themselves() -> None:
    assert TOKEN not in repr(settings(INFRA_TOKEN=TOKEN, PROXY_PASSWORD=TOKEN))


def test_redaction_of_quoted_and_mixed_case_secrets() -> None:
    read = settings(INFRA_TOKEN="aB-9", PROXY_PASSWORD="p/w d")
    assert read.redact("aB-9 AB-9 p/w d p%2Fw%20d p%2fw%20d") == " ".join(["********"] * 5)
