"""What the running processes tell: which containers there are, and which environments are in use.

Only processes that are new since the last look cost anything but a listing of /proc; each is looked
at twice, because right after its start it may still be about to execute another program.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import PurePosixPath

from sematext_agent.host_collector.packages.roots import Place, nodes, pythons
from sematext_agent.host_collector.packages.tree import is_text

_container = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_interpreter = re.compile(r"(python|pypy)[0-9.]*|node(?:js)?")
_HINTS_MAX = 256
_ARGUMENTS_MAX = 3
_ANCESTORS_MAX = 12
_BYTES_MAX = 128 * 1024

HOST = ""
"""Stands for the host where others stand for a container's id."""


class Processes:
    """The processes that a procfs shows."""

    def __init__(self, proc: str, host_process: str = "self") -> None:
        """
        Args:
            proc: where the procfs is.
            host_process: a process that sees the host's file system as it is read here.
        """
        self.proc = proc
        self.containers: dict[str, int] = {}
        """Of each running container the process that was there first, by the container's id."""
        self.hints: dict[str, set[Place]] = {}
        """Where the processes of the host, and of each container, run packages from."""
        self.forbidden = False
        """True where the system does not let us see what others run, or what containers do."""
        self._seen: dict[int, bool] = {}
        self._host_namespace = self._link(host_process, "ns/mnt")

    def forget(self) -> None:
        """Makes the next look take in every process anew."""
        self._seen.clear()
        self.hints.clear()

    def look(self) -> dict[str, set[Place]]:
        """Looks at the processes that are new; returns the places that they are the first to name,
        by the container or the host."""
        there = {int(name) for name in os.listdir(self.proc) if name.isdecimal()}
        for ended in [name for name, pid in self.containers.items() if pid not in there]:
            # Its first process is its init: with it the container ends. If it was not, the
            # processes that are left name the container again.
            del self.containers[ended]
            self.hints.pop(ended, None)
            self._seen.clear()
        new: dict[str, set[Place]] = {}
        seen = {pid: True for pid in there if pid in self._seen}
        for pid in sorted(pid for pid in there if not self._seen.get(pid)):
            seen.setdefault(pid, False)
            container = self.container_of(pid)
            if container is None:
                continue
            if container != HOST:
                self.containers.setdefault(container, pid)
            hints = self.hints.setdefault(container, set())
            if len(hints) < _HINTS_MAX and (places := self._hints_of(pid) - hints):
                hints |= places
                new.setdefault(container, set()).update(places)
        self._seen = seen
        return new

    def container_of(self, pid: int) -> str | None:
        """The id of the container that the process runs in, or `HOST`; None where that is hidden.

        What watches over a container may live in the container's control group, but not with its
        file system.
        """
        ids = _container.findall(self._text(pid, "cgroup").decode(errors="replace"))
        if not ids:
            return HOST
        namespace = self._link(pid, "ns/mnt")
        if not namespace:
            self.forbidden |= os.path.exists(f"{self.proc}/{pid}")
            return None
        return HOST if namespace == self._host_namespace else ids[-1]

    def mounted(self, container: str, point: str) -> str:
        """The path, in a file system of the host, of what is mounted at `point` of a container.

        See proc(5), /proc/pid/mountinfo; empty where nothing is mounted there.
        """
        for line in self._text(self.containers.get(container, 0), "mountinfo").splitlines():
            fields = line.decode(errors="replace").split(" ")
            if len(fields) > 4 and fields[4] == point:
                return fields[3]
        return ""

    def _hints_of(self, pid: int) -> set[Place]:
        """The places from which the process runs packages."""
        exe = PurePosixPath(self._link(pid, "exe").removesuffix(" (deleted)"))
        kind = _interpreter.fullmatch(exe.name)
        if kind is None:
            return set()
        cwd = self._link(pid, "cwd")
        arguments = [
            os.path.normpath(os.path.join(cwd, argument))
            for argument in self._text(pid, "cmdline").decode(errors="replace").split("\0")
            if argument and not argument.startswith("-")
        ][:_ARGUMENTS_MAX]
        prefix = str(exe.parent.parent)
        if kind[1]:
            prefixes = {prefix, *map(_prefix, arguments), *self._environments(pid)}
            return {
                place
                for path in prefixes
                if path.startswith("/")
                for place in pythons(path.strip("/"))
                if path.strip("/")
            }
        found = {nodes(prefix.strip("/"))}
        for start in (cwd, *map(os.path.dirname, arguments[1:])):
            if start.startswith("/"):
                found |= _projects(PurePosixPath(start))
        return found

    def _environments(self, pid: int) -> Iterator[str]:
        """The virtual environments that the process was started in, by its variables."""
        for variable in self._text(pid, "environ").decode(errors="replace").split("\0"):
            name, _, value = variable.partition("=")
            if name == "VIRTUAL_ENV":
                yield value
            elif name == "PATH":  # an image often has its environment first in it, and no more
                yield _prefix(f"{value.partition(':')[0]}/python")

    def _link(self, pid: int | str, name: str) -> str:
        try:
            target = os.readlink(f"{self.proc}/{pid}/{name}")
            return target if is_text(target) else ""
        except PermissionError:
            # Even from root a process may be hidden that has capabilities which root lacks.
            self.forbidden |= os.geteuid() != 0
            return ""
        except OSError:
            return ""

    def _text(self, pid: int, name: str) -> bytes:
        try:
            with open(f"{self.proc}/{pid}/{name}", "rb") as file:
                return file.read(_BYTES_MAX)
        except OSError:
            return b""


def _prefix(argument: str) -> str:
    """`/venv` for `/venv/bin/python` and `/venv/bin/gunicorn`."""
    path = PurePosixPath(argument)
    return str(path.parent.parent) if path.parent.name in ("bin", "sbin") else ""


def _projects(start: PurePosixPath) -> set[Place]:
    """The `node_modules` that Node would look into from `start`, but not those inside a package."""
    found: set[Place] = set()
    for folder in (start, *start.parents)[:_ANCESTORS_MAX]:
        if folder.name == "node_modules":
            found.add(Place("node", str(folder).strip("/")))
        elif "node_modules" not in folder.parts:
            found.add(Place("node", str(folder / "node_modules").strip("/")))
    return found
