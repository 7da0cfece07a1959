"""Settings of the Docker collector: the Sematext Agent's names, and one line for a bad value."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.docker_collector.engine import client_arguments
from sematext_agent.docker_collector.filters import EventFilter
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.shared.settings import SettingsError, load_settings


@pytest.mark.parametrize(
    ("variable", "value", "expected"),
    [
        ("CONTAINER_EVENTS_EXCLUDED", "container,pods", "name some of container, image, volume"),
        ("CONTAINER_SKIP_BY_IMAGE", "nginx,(", "( is no regular expression"),
        ("DOCKER_TRANSPORT", "ftp://host", "Invalid bind address"),
        ("DOCKER_TRANSPORT", "tcp://host", "port is required"),
        ("DOCKER_TRANSPORT", "ssh://host", "only unix:// and tcp:// are supported"),
        ("DOCKER_CERT_PATH", "/nowhere", "holds no ca.pem"),
        ("CONTAINER_EVENTS_ENABLED", "perhaps", "set it to true or false"),
    ],
)
def test_a_bad_value_is_one_line_with_the_variable_and_the_remedy(
    variable: str, value: str, expected: str
) -> None:
    with pytest.raises(SettingsError) as caught:
        load_settings(DockerSettings, {variable: value})
    text = str(caught.value)
    assert text.startswith(f"{variable}=")
    assert expected in text
    assert "\n" not in text


def test_docker_transport_precedes_docker_host_and_the_usual_socket(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("DOCKER_CONFIG", str(tmp_path))
    monkeypatch.delenv("DOCKER_CONTEXT", raising=False)
    environment = {"DOCKER_TRANSPORT": "tcp://a:1/", "DOCKER_HOST": "tcp://b:1"}
    assert client_arguments(load_settings(DockerSettings, environment))["base_url"] == "tcp://a:1/"
    del environment["DOCKER_TRANSPORT"]
    assert client_arguments(load_settings(DockerSettings, environment))["base_url"] == "tcp://b:1"
    assert client_arguments(DockerSettings())["base_url"].endswith("/var/run/docker.sock")


def event_filter(environment: dict[str, str]) -> EventFilter:
    return EventFilter(load_settings(DockerSettings, environment), lambda reason: None)


def accepts(category: str, action: str, **environment: str) -> bool:
    return event_filter(environment).accepts_action(category, action)


def test_categories_and_actions_are_excluded() -> None:
    categories = {"CONTAINER_EVENTS_EXCLUDED": "Volume, network"}
    assert not accepts("volume", "mount", **categories)
    assert accepts("container", "start", **categories)
    actions = {"CONTAINER_EVENTS_ACTIONS_EXCLUDED": "top,volume.create"}
    assert not accepts("container", "top", **actions)
    assert not accepts("volume", "create", **actions)
    assert accepts("container", "create", **actions)


def passes(name: str, image: str, **environment: str) -> bool:
    return event_filter(environment).accepts_container(name, image)


def test_containers_are_matched_and_skipped_by_parts_of_their_image_and_name() -> None:
    assert passes("web", "sematext/agent:4")
    assert not passes("web", "sematext/agent:4", CONTAINER_SKIP_BY_IMAGE="vector,sematext/agent")
    assert passes("web-1", "nginx", CONTAINER_MATCH_BY_NAME="^web-[0-9]{1,2}$, db")
    assert passes("mydb", "nginx", CONTAINER_MATCH_BY_NAME="^web-[0-9]{1,2}$, db")
    assert not passes("web-123", "nginx", CONTAINER_MATCH_BY_NAME="^web-[0-9]{1,2}$, db")
    assert not passes("web", "nginx", CONTAINER_MATCH_BY_IMAGE="redis")
    assert not passes("web", "nginx", CONTAINER_MATCH_BY_NAME="web", CONTAINER_SKIP_BY_NAME="we")
