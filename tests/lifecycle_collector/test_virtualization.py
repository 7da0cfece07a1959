"""The virtualization of a machine, detected by its files."""

from __future__ import annotations

from pathlib import Path

import pytest

from sematext_agent.lifecycle_collector.virtualization import detect_virtualization

DMI = "sys/class/dmi/id/"


def machine(root: Path, files: dict[str, str]) -> Path:
    """Return the root of a file system that holds `files`."""
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


MACHINES = {
    "a laptop": ({DMI + "product_name": "20XW\n", DMI + "sys_vendor": "LENOVO\n"}, ""),
    "nothing to read": ({}, ""),
    "QEMU without KVM": (
        {DMI + "product_name": "Standard PC (i440FX + PIIX, 1996)\n", DMI + "sys_vendor": "QEMU\n"},
        "qemu",
    ),
    "KVM over QEMU": ({DMI + "product_name": "KVM\n", DMI + "sys_vendor": "QEMU\n"}, "kvm"),
    "VMware": ({DMI + "sys_vendor": "VMware, Inc.\n"}, "vmware"),
    "VirtualBox": (
        {DMI + "product_name": "VirtualBox\n", DMI + "sys_vendor": "innotek GmbH\n"},
        "oracle",
    ),
    "Hyper-V": (
        {DMI + "product_name": "Virtual Machine\n", DMI + "sys_vendor": "Microsoft Corporation\n"},
        "microsoft",
    ),
    "EC2": ({DMI + "product_name": "m5.large\n", DMI + "sys_vendor": "Amazon EC2\n"}, "amazon"),
    "EC2 bare metal": (
        {DMI + "product_name": "m5.metal\n", DMI + "sys_vendor": "Amazon EC2\n"},
        "",
    ),
    "Google": ({DMI + "product_name": "Google Compute Engine\n"}, "google"),
    "Xen without DMI": ({"sys/hypervisor/type": "xen\n"}, "xen"),
    "KVM on ARM": ({"proc/device-tree/hypervisor/compatible": "linux,kvm\0"}, "kvm"),
    "a microVM": ({"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu hypervisor lm\n"}, "vm-other"),
    "a processor alone": ({"proc/cpuinfo": "processor\t: 0\nflags\t\t: fpu lm\n"}, ""),
    "a container of Docker in a VM": ({".dockerenv": "", DMI + "sys_vendor": "QEMU\n"}, "docker"),
    "a container of Podman": ({"run/.containerenv": ""}, "podman"),
    "a container of LXC": ({"run/systemd/container": "lxc\n"}, "lxc"),
}


@pytest.mark.parametrize(("files", "expected"), MACHINES.values(), ids=MACHINES.keys())
def test_the_virtualization_is_detected_by_files(
    tmp_path: Path, files: dict[str, str], expected: str
) -> None:
    assert detect_virtualization(root=machine(tmp_path, files), environ={}) == expected


def test_a_pod_is_a_container(tmp_path: Path) -> None:
    environ = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    assert detect_virtualization(root=tmp_path, environ=environ) == "container"


def test_from_a_container_that_inspects_its_host_the_host_is_detected(tmp_path: Path) -> None:
    root = machine(tmp_path, {".dockerenv": "", DMI + "sys_vendor": "QEMU\n"})
    assert detect_virtualization(in_container_of_host=True, root=root, environ={}) == "qemu"
