"""Detection of the virtualization of this machine: systemd-detect-virt(1) in small."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

# Beginnings of the firmware's own names. The product is read before the vendor, because QEMU
# sets both, and under KVM only the product names KVM.
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


def detect_virtualization(
    in_container_of_host: bool = False,
    root: Path = Path("/"),
    environ: Mapping[str, str] = os.environ,
) -> str:
    """Return `kvm`, `vmware`, `docker` …, or an empty text for a physical machine.

    A container comes before the machine it runs on, as with systemd, unless this process only
    inspects its host from a container (`in_container_of_host`).
    """
    container = "" if in_container_of_host else _container(root, environ)
    return container or _machine(root)


def _container(root: Path, environ: Mapping[str, str]) -> str:
    for name, kind in _CONTAINER_FILES.items():
        if (root / name).exists():
            return kind
    # The declaration of the container's manager: https://systemd.io/CONTAINER_INTERFACE
    declared = environ.get("container", "") or _first_line(root / "run/systemd/container")
    return declared or ("container" if "KUBERNETES_SERVICE_HOST" in environ else "")


def _machine(root: Path) -> str:
    names = [_first_line(root / "sys/class/dmi/id" / name) for name in _FIRMWARE_FILES]
    if names[0].endswith(".metal"):
        return ""  # a whole machine that a cloud rents out
    for name in names:
        for beginning, kind in _FIRMWARE.items():
            if name.startswith(beginning):
                return kind
    if _first_line(root / "sys/hypervisor/type") == "xen":
        return "xen"
    compatible = _first_line(root / "proc/device-tree/hypervisor/compatible")
    if compatible:
        return "kvm" if "kvm" in compatible else "vm-other"
    return "vm-other" if _has_hypervisor_flag(root / "proc/cpuinfo") else ""


def _has_hypervisor_flag(cpuinfo: Path) -> bool:
    """Return whether the processor reports a hypervisor (CPUID leaf 1, ECX bit 31)."""
    if not cpuinfo.is_file():
        return False
    lines = cpuinfo.read_text(errors="replace").splitlines()
    flags = next((line for line in lines if line.startswith("flags")), "")
    return "hypervisor" in flags.split()


def _first_line(path: Path) -> str:
    """Return the first line of a file; empty if it cannot be read, as some of sysfs cannot."""
    try:
        return path.read_text(errors="replace").partition("\n")[0].strip(" \0")
    except OSError:
        return ""
