"""The names of containers and of their images, as the engines' files on the host have them."""

from __future__ import annotations

import msgspec

from sematext_agent.host_collector.file_tree import FileTree, UnreadableError
from sematext_agent.shared.decode_errors import DECODE_ERRORS

_CONFIG_BYTES_MAX = 1024 * 1024


class _ImageConfig(msgspec.Struct, frozen=True, rename="pascal"):
    image: str = ""


class _ContainerConfig(msgspec.Struct, frozen=True, rename="pascal"):
    """The part of Docker's `config.v2.json` that is read here."""

    name: str = ""
    config: _ImageConfig = _ImageConfig()


def find_name_and_image(host: FileTree, container_id: str, folder: str = "") -> tuple[str, str]:
    """Return the name of a container and its image; empty where no file on the host has it.

    Args:
        host: the file system of the host.
        container_id: the full id, 64 hexadecimal digits.
        folder: the directory of Docker's record of the container, where it is not the usual one.
    """
    for path in (folder, f"var/lib/docker/containers/{container_id}"):
        try:
            content = host.read(f"{path}/config.v2.json", _CONFIG_BYTES_MAX)
            config = msgspec.json.decode(content, type=_ContainerConfig)
            return config.name.removeprefix("/"), config.config.image
        except (OSError, UnreadableError, *DECODE_ERRORS):
            continue
    try:
        # The kubelet's links to logs: <pod>_<namespace>_<container>-<id>.log
        for name in host.names("var/log/containers"):
            if name.endswith(f"-{container_id}.log"):
                return name.removesuffix(f"-{container_id}.log").rpartition("_")[2], ""
    except (OSError, UnreadableError):
        pass
    return "", ""
