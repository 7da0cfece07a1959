"""The container and the pod of a cgroup, by its path alone.

The paths are the host's, as the kernel prints them:

    /docker/<id>                                             Docker, cgroupfs driver
    /system.slice/docker-<id>.scope                          Docker, systemd driver
    /kubepods/burstable/pod<uid>/<id>                        kubelet, cgroupfs driver
    /kubepods.slice/…-pod<uid, _ for ->.slice/cri-containerd-<id>.scope    kubelet, systemd driver
    /system.slice/…pod<uid>.slice:cri-containerd:<id>        containerd without its systemd driver
    /machine.slice/libpod-<id>.scope/container               Podman
"""

from __future__ import annotations

import re
from typing import NamedTuple

_container = re.compile(r"(?:^|[-:])(?P<id>[0-9a-f]{64})(?:\.scope)?$")
# 32 digits without dashes is the uid of a static pod, which is a hash of its manifest.
_pod = re.compile(
    r"(?:^|-)pod(?P<uid>[0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice|$|:)"
)


class CgroupOwner(NamedTuple):
    """The container and the pod that a cgroup belongs to; empty where its path does not name it."""

    container_id: str
    pod_uid: str


def find_owner(path: str) -> CgroupOwner:
    """Return the container and the pod of the cgroup at `path`.

    Of nested containers the outermost is returned: the host's engine knows it, and whoever creates
    cgroups inside a container cannot choose it. Of a cluster inside a container (kind) it is the
    pod's container, because that is the one the cluster's user looks for.
    """
    pod_uid = container_id = ""
    for part in path.split("/"):
        if not pod_uid and (pod := _pod.search(part)):
            pod_uid, container_id = pod["uid"].replace("_", "-"), ""
        if not container_id and (container := _container.search(part)):
            container_id = "" if "conmon" in part else container["id"]
    return CgroupOwner(container_id, pod_uid)
