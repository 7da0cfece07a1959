"""Whether this machine is virtual, and by what: the logic of systemd-detect-virt(1) in small."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# How the firmware's own names begin, and what they mean. The product is looked at before the
# vendor, because QEMU names both, and with KVM the product says so.
_FIRMWARE = {
    "KVM": "kvm",
    "Amazon EC2": "amazon",
    "QEMU": "qemu",
    "VMware": "vmware",
    "VMW": "vmware",
    "VirtualBox": "oracle",
    "innotek GmbH": "oracle",
    "Oracle Corporation": "oracle",
    "Xen": "xen",
    "Bochs": "bochs",
    "Parallels": "parallels",
    "BHYVE": "bhyve",
    "Hyper-V": "microsoft",
    "Virtual Machine": "microsoft",
    "Apple Virtualization": "apple",
    "Google Compute Engine": "google",
}
_FIRMWARE_FILES = ("product_name", "sys_vendor", "board_vendor", "bios_vendor")
_CONTAINER_FILES = {".dockerenv": "docker", "run/.containerenv": "podman"}


def virtualization(
    in_container_of_host: bool = False,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> str:
    """`kvm`, `vmware`, `docker` … or nothing for a machine of its own.

    A container is named before the machine it runs on, as systemd does, unless it is only the
    place from which its host is looked at (`in_container_of_host`).
    """
    container = "" if in_container_of_host else _container(root, environ)
    return container or _machine(root)


def _container(root: Path, environ: Mapping[str, str]) -> str:
    for name, kind in _CONTAINER_FILES.items():
        if (root / name).exists():
            return kind
    # What the container's manager declares: https://systemd.io/CONTAINER_INTERFACE
    declared = environ.get("container", "") or _line(root / "run/systemd/container")
    return declared or ("container" if "KUBERNETES_SERVICE_HOST" in environ else "")


def _machine(root: Path) -> str:
    names = [_line(root / "sys/class/dmi/id" / name) for name in _FIRMWARE_FILES]
    if names[0].endswith(".metal"):
        return ""  # a whole machine that a cloud rents out
    for name in names:
        for beginning, kind in _FIRMWARE.items():
            if name.startswith(beginning):
                return kind
    if _line(root / "sys/hypervisor/type") == "xen":
        return "xen"
    compatible = _line(root / "proc/device-tree/hypervisor/compatible")
    if compatible:
        return "kvm" if "kvm" in compatible else "vm-other"
    return "vm-other" if _has_hypervisor_flag(root / "proc/cpuinfo") else ""


def _has_hypervisor_flag(cpuinfo: Path) -> bool:
    """Whether the processor says that it is not alone (CPUID leaf 1, ECX bit 31)."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "hypervisor" in flags.split()


def _line(path: Path) -> str:
    """The first line of a file; empty where it cannot be read, as some of sysfs cannot by all."""
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip(" \0")
    except OSError:
        return ""
