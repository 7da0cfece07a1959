"""The broker of a systemd unit has a health page on the loopback, unless it is given one."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.agentctl.watched_broker import add_health_page, read_problem


@pytest.mark.parametrize("line", ["http: 8222", "  http_port = 8222", "monitor_port: 1"])
def test_a_health_page_of_the_configuration_stays_as_it_is(tmp_path: Path, line: str) -> None:
    configuration = tmp_path / "nats.conf"
    configuration.write_text(f"port: 4222\n{line}\n")
    assert add_health_page(configuration, tmp_path / "run") == configuration


def test_a_configuration_without_a_health_page_is_included(tmp_path: Path) -> None:
    configuration, directory = tmp_path / "etc/nats.conf", tmp_path / "run"
    for folder in (configuration.parent, directory):
        folder.mkdir()
    configuration.write_text("port: 4222\n# http: 8222\n")
    extended = add_health_page(configuration, directory).read_text()
    assert extended == 'http: "127.0.0.1:-1"\ninclude "../etc/nats.conf"\n'


async def test_a_broker_that_is_not_ready_yet_has_no_problem(tmp_path: Path) -> None:
    assert await read_problem(tmp_path / "nats-server_1.ports") == ""
