"""The running processes: which containers there are, and which environments are in use.

Only processes that are new since the last listing cost anything but a listing of /proc; each is
read twice, because right after its start it may still be about to execute another program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from sematext_agent.host_collector.file_tree import is_text
from sematext_agent.host_collector.packages.scan_patterns import (
    ScanPattern,
    node_pattern,
    python_patterns,
)

_container = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_interpreter = re.compile(r"(python|pypy)[0-9.]*|node(?:js)?")
_PATTERNS_MAX = 256
_ARGUMENTS_MAX = 3
_ANCESTORS_MAX = 12
_BYTES_MAX = 128 * 1024

HOST = ""
"""Stands for the host where a container's id is expected."""


class ProcessList:
    """The processes in a procfs."""

    def __init__(self, proc: str, host_process: str = "self") -> None:
        """Read the procfs at the path `proc`.

        Args:
            proc: where the procfs is mounted.
            host_process: a process in the mount namespace of the host's file system.
        """
        self.proc = proc
        self.containers: dict[str, int] = {}
        """The first process of each running container, by the container's id."""
        self.patterns: dict[str, set[ScanPattern]] = {}
        """The directories that processes run packages from, by container or host."""
        self.is_restricted = False
        """True where the system hides what other users run, or what containers do."""
        self._read_twice: dict[int, bool] = {}
        self._host_namespace = self._read_link(host_process, "ns/mnt")

    def forget(self) -> None:
        """Read every process again in the next `update`."""
        self._read_twice.clear()
        self.patterns.clear()

    def update(self) -> dict[str, set[ScanPattern]]:
        """Read the new processes; return the patterns not seen before, by container or host."""
        pids = {int(name) for name in os.listdir(self.proc) if name.isdecimal()}
        for ended in [name for name, pid in self.containers.items() if pid not in pids]:
            # Its first process is its init, with which the container ends. If it was not, the
            # remaining processes add the container again.
            del self.containers[ended]
            self.patterns.pop(ended, None)
            self._read_twice.clear()
        new: dict[str, set[ScanPattern]] = {}
        read_twice = {pid: True for pid in pids if pid in self._read_twice}
        for pid in sorted(pid for pid in pids if not self._read_twice.get(pid)):
            read_twice.setdefault(pid, False)
            container = self.container_of(pid)
            if container is None:
                continue
            if container != HOST:
                self.containers.setdefault(container, pid)
            patterns = self.patterns.setdefault(container, set())
            if len(patterns) < _PATTERNS_MAX and (added := self._patterns_of(pid) - patterns):
                patterns |= added
                new.setdefault(container, set()).update(added)
        self._read_twice = read_twice
        return new

    def container_of(self, pid: int) -> str | None:
        """Return the id of the process's container, or `HOST`; None where that is hidden.

        A process that supervises a container may be in the container's control group, but not in
        its mount namespace.
        """
        ids = _container.findall(self._read(pid, "cgroup").decode(errors="replace"))
        if not ids:
            return HOST
        try:
            namespace = os.readlink(f"{self.proc}/{pid}/ns/mnt")
        except PermissionError:
            self.is_restricted = True
            return None
        except OSError:  # it has ended: also a zombie, which is still listed, has no namespaces
            return None
        return HOST if namespace == self._host_namespace else ids[-1]

    def find_mount(self, container: str, point: str) -> str:
        """Return the path, in a file system of the host, that is mounted at `point` of a container.

        See proc(5), /proc/pid/mountinfo; empty where nothing is mounted there.
        """
        for line in self._read(self.containers.get(container, 0), "mountinfo").splitlines():
            fields = line.decode(errors="replace").split(" ")
            if len(fields) > 4 and fields[4] == point:
                return fields[3]
        return ""

    def _patterns_of(self, pid: int) -> set[ScanPattern]:
        """Return the directories from which the process runs packages."""
        exe = PurePosixPath(self._read_link(pid, "exe").removesuffix(" (deleted)"))
        interpreter = _interpreter.fullmatch(exe.name)
        if interpreter is None:
            return set()
        cwd = self._read_link(pid, "cwd")
        arguments = [
            os.path.normpath(os.path.join(cwd, argument))
            for argument in self._read(pid, "cmdline").decode(errors="replace").split("\0")
            if argument and not argument.startswith("-")
        ][:_ARGUMENTS_MAX]
        prefix = str(exe.parent.parent)
        if interpreter[1]:
            prefixes = {prefix, *map(_prefix, arguments), *self._environments(pid)}
            return {
                pattern
                for path in prefixes
                if path.startswith("/")
                for pattern in python_patterns(path.strip("/"))
                if path.strip("/")
            }
        patterns = {node_pattern(prefix.strip("/"))}
        for start in (cwd, *map(os.path.dirname, arguments[1:])):
            if start.startswith("/"):
                patterns |= _project_patterns(PurePosixPath(start))
        return patterns

    def _environments(self, pid: int) -> Iterator[str]:
        """Yield the virtual environments that the process was started in, by its variables."""
        for variable in self._read(pid, "environ").decode(errors="replace").split("\0"):
            name, _, value = variable.partition("=")
            if name == "VIRTUAL_ENV":
                yield value
            elif name == "PATH":  # an image often has its environment first in it, and no more
                yield _prefix(f"{value.partition(':')[0]}/python")

    def _read_link(self, pid: int | str, name: str) -> str:
        try:
            target = os.readlink(f"{self.proc}/{pid}/{name}")
            return target if is_text(target) else ""
        except PermissionError:
            # Even from root a process may be hidden that has capabilities which root lacks.
            self.is_restricted |= os.geteuid() != 0
            return ""
        except OSError:
            return ""

    def _read(self, pid: int, name: str) -> bytes:
        try:
            with open(f"{self.proc}/{pid}/{name}", "rb") as file:
                return file.read(_BYTES_MAX)
        except OSError:
            return b""


def _prefix(argument: str) -> str:
    """Return `/venv` for `/venv/bin/python` and `/venv/bin/gunicorn`."""
    path = PurePosixPath(argument)
    return str(path.parent.parent) if path.parent.name in ("bin", "sbin") else ""


def _project_patterns(start: PurePosixPath) -> set[ScanPattern]:
    """Return the `node_modules` that Node searches from `start`, but not those in a package."""
    patterns: set[ScanPattern] = set()
    for folder in (start, *start.parents)[:_ANCESTORS_MAX]:
        if folder.name == "node_modules":
            patterns.add(ScanPattern("node", str(folder).strip("/")))
        elif "node_modules" not in folder.parts:
            patterns.add(ScanPattern("node", str(folder / "node_modules").strip("/")))
    return patterns
