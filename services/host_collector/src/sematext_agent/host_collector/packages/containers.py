"""The file systems to look into: the host's, and that of each running container."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import msgspec

from sematext_agent.host_collector.packages.processes import HOST, Processes
from sematext_agent.host_collector.packages.tree import Tree, Unreadable, tree_at
from sematext_agent.shared.decode_errors import DECODE_ERRORS

_CONFIG_BYTES_MAX = 1024 * 1024


class _Config(msgspec.Struct, frozen=True, rename="pascal"):
    image: str = ""


class _Container(msgspec.Struct, frozen=True, rename="pascal"):
    name: str = ""
    config: _Config = _Config()


class ContainerGone(Exception):  # noqa: N818 - it is a state, not a fault
    """The container has ended."""


@contextmanager
def tree_of(processes: Processes, container: str, host_root: str) -> Iterator[Tree]:
    """The file system of a container by its id, or of the host.

    It is reached through the root of a process of the container, and kept open no longer than it
    is read, so that nothing of the container is held when it ends.

    Raises:
        ContainerGone: no process of it is left.
        OSError: it cannot be reached.
    """
    if container == HOST:
        with tree_at(host_root or "/") as tree:
            yield tree
        return
    root = _open_root(processes, container)
    try:
        yield Tree(root)
    finally:
        os.close(root)


def _open_root(processes: Processes, container: str) -> int:
    """A descriptor of the root of the container's file system."""
    pid = processes.containers.get(container)
    try:
        root = os.open(f"{processes.proc}/{pid}/root", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError) as error:
        raise ContainerGone(container) from error
    # The number of the process may be another's by now; what is open stays what it is.
    if processes.container_of(pid or 0) != container:
        os.close(root)
        raise ContainerGone(container)
    return root


def name_and_image(host: Tree, container: str, record: str = "") -> tuple[str, str]:
    """What the engine calls a container and its image, where its files on the host say so.

    Args:
        record: the directory of Docker's record of it, where that is known not to be the usual one.
    """
    for folder in (record, f"var/lib/docker/containers/{container}"):
        try:
            config = host.read(f"{folder}/config.v2.json", _CONFIG_BYTES_MAX)
            found = msgspec.json.decode(config, type=_Container)
            return found.name.removeprefix("/"), found.config.image
        except (OSError, Unreadable, *DECODE_ERRORS):
            continue
    try:
        # The kubelet's links to logs: <pod>_<namespace>_<container>-<id>.log
        for name in host.names("var/log/containers"):
            if name.endswith(f"-{container}.log"):
                return name.removesuffix(f"-{container}.log").rpartition("_")[2], ""
    except (OSError, Unreadable):
        pass
    return "", ""
