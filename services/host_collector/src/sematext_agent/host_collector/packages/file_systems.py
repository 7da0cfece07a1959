"""The file systems that are scanned: the host's, and that of each running container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from sematext_agent.host_collector.file_tree import FileTree, open_tree
from sematext_agent.host_collector.packages.processes import HOST, ProcessList
from sematext_agent.host_collector.settings import HostSettings
from sematext_agent.shared.settings import SettingsError


class ContainerEndedError(Exception):
    """The container has ended."""


def list_processes(settings: HostSettings) -> ProcessList:
    """Return the processes of the host, whose file system may be mounted at `HOST_ROOT`.

    Raises:
        SettingsError: `HOST_ROOT` is no directory.
    """
    root = settings.host_root.rstrip("/")
    if root and not os.path.isdir(root):
        raise SettingsError(f"HOST_ROOT={root}", "no such directory", "mount the host there")
    # In a container the procfs of the host is below its mounted root.
    proc = f"{root}/proc" if root and os.path.isdir(f"{root}/proc/1") else "/proc"
    # In a sandbox of systemd the file system is the host's, but not our namespace: HOST_ROOT=/.
    return ProcessList(proc, "1" if settings.host_root else "self")


@contextmanager
def open_file_system(
    processes: ProcessList, container_id: str, host_root: str
) -> Iterator[FileTree]:
    """Yield the file system of a container, or of the host.

    A container's is reached through the root of one of its processes, and is open no longer than it
    is read, so that nothing of the container is held when it ends.

    Raises:
        ContainerEndedError: no process of the container is left.
        OSError: it cannot be reached.
    """
    if container_id == HOST:
        with open_tree(host_root or "/") as tree:
            yield tree
        return
    root = _open_root(processes, container_id)
    try:
        yield FileTree(root)
    finally:
        os.close(root)


def _open_root(processes: ProcessList, container_id: str) -> int:
    """Return a descriptor of the root of the container's file system."""
    pid = processes.containers.get(container_id)
    try:
        root = os.open(f"{processes.proc}/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ContainerEndedError(container_id) from error
    # The pid may be another process's by now; what is open stays what it is.
    if processes.container_of(pid or 0) != container_id:
        os.close(root)
        raise ContainerEndedError(container_id)
    return root
