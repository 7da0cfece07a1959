"""The running processes: which containers there are, and where programs have their packages."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.host_collector.packages.file_systems import (
    ContainerEndedError,
    list_processes,
    open_file_system,
)
from sematext_agent.host_collector.packages.processes import HOST, ProcessList
from sematext_agent.host_collector.packages.scan_patterns import PATTERNS
from sematext_agent.host_collector.settings import HostSettings


def _process(proc: Path, pid: str, cgroup: str, namespace: str) -> None:
    (proc / pid / "ns").mkdir(parents=True)
    (proc / pid / "cgroup").write_text(cgroup)
    (proc / pid / "ns/mnt").symlink_to(namespace)


def test_a_container_needs_an_id_and_a_file_system_of_its_own(tmp_path: Path) -> None:
    """A supervisor of a container (conmon) lives in its control group, and is the host's."""
    proc = tmp_path / "proc"
    container = "c0ffee" * 10 + "abcd"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "7", f"0::/libpod-conmon-{container}.scope", "mnt:[1]")
    _process(proc, "8", "0::/system.slice/private-tmp.service", "mnt:[2]")
    processes = ProcessList(str(proc))
    processes.update()
    assert processes.containers == {}
    inner = "ab" * 32
    _process(proc, "9", f"1:name=systemd:/docker/{container}/kubepods/{inner}", "mnt:[3]")
    processes.update()
    assert processes.containers == {inner: 9}


def test_a_process_of_a_container_that_has_ended_is_not_taken_for_a_hidden_one(
    tmp_path: Path,
) -> None:
    """A zombie is listed with its control group, but without namespaces."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "9", f"0::/docker-{'ab' * 32}.scope", "mnt:[3]")
    (proc / "9/ns/mnt").unlink()
    processes = ProcessList(str(proc))
    processes.update()
    assert processes.containers == {}
    assert not processes.is_restricted


@pytest.mark.parametrize(("host_root", "process"), [("", "self"), ("/", "1"), ("/usr", "1")])
def test_the_namespace_of_the_host_is_that_of_its_first_process_where_a_root_is_set(
    host_root: str, process: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Under systemd's ProtectSystem= the collector's own namespace is not the host's."""
    links: list[tuple[object, str]] = []

    def read_link(self: ProcessList, pid: int | str, name: str) -> str:
        links.append((pid, name))
        return "mnt:[1]"

    monkeypatch.setattr(ProcessList, "_read_link", read_link)
    list_processes(HostSettings(host_root=host_root))
    assert links == [(process, "ns/mnt")]


def test_a_process_number_that_is_another_process_now_is_not_entered(tmp_path: Path) -> None:
    """Its container has ended, and the system has given the number away."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "9", f"0::/docker-{'ab' * 32}.scope", "mnt:[3]")
    (proc / "9/root").mkdir()
    processes = ProcessList(str(proc))
    processes.update()
    with open_file_system(processes, "ab" * 32, "") as tree:
        assert tree.names(".") == []
    (proc / "9/cgroup").write_text("0::/user.slice")
    with pytest.raises(ContainerEndedError), open_file_system(processes, "ab" * 32, ""):
        pass


@pytest.mark.parametrize(
    ("exe", "cwd", "command", "environ", "expected"),
    [
        ("/usr/bin/python3", "/", "/srv/venv/bin/python -u app.py", "", "srv/venv"),
        ("/usr/bin/python3", "/srv/app", ".venv/bin/python app.py", "", "srv/app/.venv"),
        ("/usr/bin/python3", "/", "/usr/bin/python3 -s -E -u /opt/x/y/bin/gunicorn", "", "opt/x/y"),
        ("/usr/bin/python3", "/", "python app.py", "VIRTUAL_ENV=/v", "v"),
        ("/usr/bin/python3", "/", "python app.py", "PATH=/v/bin:/usr/bin", "v"),
        ("/usr/bin/node", "/srv", "node --check app/server.js", "", "srv/app/node_modules"),
        ("/usr/bin/node", "/srv/app/src", "node", "", "srv/app/node_modules"),
        ("/opt/node/bin/node", "/", "node /srv/app/main.js", "", "srv/app/node_modules"),
        ("/opt/node/bin/node", "/", "node", "", "opt/node/lib/node_modules"),
    ],
)
def test_the_directories_from_which_a_process_runs_packages(
    tmp_path: Path, exe: str, cwd: str, command: str, environ: str, expected: str
) -> None:
    """By its program, its directory, its arguments, also relative ones, and its variables."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    _process(proc, "7", "0::/", "mnt:[1]")
    (proc / "7/exe").symlink_to(exe)
    (proc / "7/cwd").symlink_to(cwd)
    (proc / "7/cmdline").write_text(command.replace(" ", "\0") + "\0")
    (proc / "7/environ").write_text(f"HOME=/root\0{environ}\0")
    packages = "" if expected.endswith("node_modules") else "/lib/python*/site-packages"
    patterns = ProcessList(str(proc)).update()[HOST]
    assert expected + packages in {pattern.pattern for pattern in patterns}


def test_a_usual_directory_stays_one_when_a_process_runs_from_it(tmp_path: Path) -> None:
    """Else the first package there would be a baseline if its installer was seen running first."""
    proc = tmp_path / "proc"
    _process(proc, "self", "0::/", "mnt:[1]")
    for pid, exe in ("7", "/usr/bin/node"), ("8", "/usr/local/bin/python3"):
        _process(proc, pid, "0::/", "mnt:[1]")
        (proc / pid / "exe").symlink_to(exe)
    patterns = ProcessList(str(proc)).update()[HOST]
    assert len(patterns) == 7
    assert patterns <= set(PATTERNS)
