"""The name of the container in which a process was killed, from the host's files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from sematext_agent.host_collector.kernel.watch import _add_container_name
from sematext_agent.shared.collector import Observation
from sematext_agent.shared.events import Event, OutOfMemory

CONTAINER = "c0ffee" * 10 + "abcd"


def _name(container_id: str, root: Path) -> str:
    """Return the name that an observation of a kill in that container gets; the rest stays."""
    body = OutOfMemory(process="hog", pid=7, memory=1, container_id=container_id)
    event = Event(id="1", time="2026-01-01T00:00:00Z", origin="web-01", agent="1", body=body)
    named = _add_container_name(Observation(event, b"cursor", "oom"), str(root))
    assert (named.cursor, named.cursor_name) == (b"cursor", "oom")
    assert named.event is not None
    assert isinstance(named.event.body, OutOfMemory)
    assert (named.event.id, named.event.body.pid) == ("1", 7)
    return named.event.body.container_name


def test_docker_and_the_kubelet_name_the_container(tmp_path: Path) -> None:
    record = tmp_path / "docker/var/lib/docker/containers" / CONTAINER
    record.mkdir(parents=True)
    config = {"Name": "/web", "Config": {"Image": "nginx:1"}}
    (record / "config.v2.json").write_text(json.dumps(config))
    assert _name(CONTAINER, tmp_path / "docker") == "web"
    links = tmp_path / "kubelet/var/log/containers"
    links.mkdir(parents=True)
    (links / f"shop-0_default_cart-{CONTAINER}.log").touch()
    assert _name(CONTAINER, tmp_path / "kubelet") == "cart"


@pytest.mark.parametrize("record", ["{", "", None])
def test_without_a_name_the_kill_is_an_event_all_the_same(
    tmp_path: Path, record: str | None
) -> None:
    folder = tmp_path / "var/lib/docker/containers" / CONTAINER
    folder.mkdir(parents=True)
    if record is not None:
        (folder / "config.v2.json").write_text(record)
    assert _name(CONTAINER, tmp_path) == ""
    assert _name("", tmp_path) == ""
    assert _name(CONTAINER, tmp_path / "nowhere") == ""
