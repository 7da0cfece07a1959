"""The container and pod of a cgroup, in the forms that engines and kubelets make."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.host_collector.cgroups import find_owner

ID, INNER = "6833e82b10e71c4b423edb5f56c8a62e8b462f0d0a25ca10f9a7a9f1bbca6017", "d" * 64
UID, STATIC = "0d9a7c3b-9a4f-4a5e-8f1c-3b7d1c2e4f50", "b1946ac92492d2347c6235b4d2611184"
SLICES = f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{UID.replace('-', '_')}"
OWNERS = {
    "/": ("", ""),
    "": ("", ""),
    f"/docker/{ID}": (ID, ""),
    f"/docker/{ID}/init.scope": (ID, ""),
    f"/system.slice/docker-{ID}.scope": (ID, ""),
    f"/kubepods/burstable/pod{UID}/{ID}": (ID, UID),
    f"/kubepods/pod{UID}/{ID}": (ID, UID),
    f"{SLICES}.slice/cri-containerd-{ID}.scope": (ID, UID),
    f"{SLICES}.slice/crio-{ID}.scope": (ID, UID),
    f"{SLICES}.slice/crio-{ID}.scope/container": (ID, UID),
    f"{SLICES}.slice": ("", UID),
    f"/system.slice/containerd.service{SLICES[1:].rpartition('/')[2]}.slice:cri-containerd:{ID}": (
        ID,
        UID,
    ),
    f"/kubepods/burstable/pod{STATIC}/{ID}": (ID, STATIC),
    f"/machine.slice/libpod-{ID}.scope/container": (ID, ""),
    f"/libpod_parent/libpod-{ID}": (ID, ""),
    f"/machine.slice/libpod-conmon-{ID}.scope": ("", ""),
    f"/user.slice/user-1000.slice/user@1000.service/app.slice/docker-{ID}.scope": (ID, ""),
    f"/ecs/a1b2/{ID}": (ID, ""),
    f"/docker/{ID}/docker/{INNER}": (ID, ""),  # Docker in Docker: what the host's engine knows
    f"/kubepods/burstable/pod{UID}/{ID}/docker/{INNER}": (ID, UID),
    f"/docker/{INNER}/kubelet{SLICES}.slice/cri-containerd-{ID}.scope": (ID, UID),  # kind
    f"/docker/{ID[:63]}": ("", ""),
    f"/docker/{ID}0": ("", ""),
    "/system.slice/podman.service": ("", ""),
    "/system.slice/pod-of-peas.slice": ("", ""),
    "/lxc/web": ("", ""),
}


@pytest.mark.parametrize("path", OWNERS)
def test_the_container_and_the_pod_of_a_path(path: str) -> None:
    assert find_owner(path) == OWNERS[path]


@given(st.text())
def test_any_path_has_an_owner_or_none(path: str) -> None:
    container_id, pod_uid = find_owner(path)
    assert len(container_id) in (0, 64)
    assert len(pod_uid) in (0, 32, 36)
