"""The directories in which packages usually are.

The disk is never searched. A project or an environment in an unusual directory is found by a
process that runs from it (see `processes`), or is named in `PKG_PATHS`.
"""

from __future__ import annotations

from collections.abc import Iterable

import msgspec


class ScanPattern(msgspec.Struct, frozen=True, order=True):
    """A pattern of directories that may be scan roots of one kind."""

    kind: str
    pattern: str
    system: bool = False
    """True where a root that appears later began empty: its first packages emit events. Elsewhere
    a root that appears brings a whole set with it, which is its baseline."""


HOMES = ("root", "home/*")
_SYSTEM_PREFIXES = ("usr", "usr/local")
_USER_PYTHON_PREFIXES = (
    ".pyenv/versions/*",
    ".local/share/pipx/venvs/*",
    ".local/pipx/venvs/*",
    ".local/share/uv/tools/*",
    ".local/share/uv/python/*",
    *(
        f"{conda}{env}"
        for conda in ("miniconda3", "anaconda3", "miniforge3", "mambaforge")
        for env in ("", "/envs/*")
    ),
)
_USER_NODE_PREFIXES = (
    ".nvm/versions/node/*",
    ".local/share/fnm/node-versions/*/installation",
    ".npm-global",
    ".asdf/installs/nodejs/*",
    ".volta/tools/image/packages/*",
    "n",
    "n/n/versions/node/*",
)


def python_patterns(prefix: str) -> list[ScanPattern]:
    """Return the directories of packages of a Python that is installed at `prefix`."""
    is_system = prefix in _SYSTEM_PREFIXES
    return [
        ScanPattern("python", f"{prefix}/{lib}/{version}/{folder}", is_system)
        for lib in ("lib", "lib64")
        for version, folder in (
            ("python*", "site-packages"),
            ("python*", "dist-packages"),
            ("pypy*", "site-packages"),
        )
    ]


def node_pattern(prefix: str) -> ScanPattern:
    """Return the directory of global packages of a Node that is installed at `prefix`."""
    path = f"{prefix}/lib/node_modules".lstrip("/")
    return ScanPattern("node", path, system=prefix in _SYSTEM_PREFIXES)


def patterns_of_path(path: str) -> list[ScanPattern]:
    """Return the patterns that a directory in `PKG_PATHS` may stand for."""
    path = path.strip("/")
    if path.endswith("node_modules"):
        return [ScanPattern("node", path)]
    if path.endswith(("site-packages", "dist-packages")):
        return [ScanPattern("python", path)]
    return [
        *python_patterns(path),
        ScanPattern("node", f"{path}/node_modules"),
        ScanPattern("deb", path),
        ScanPattern("rpm", path),
    ]


def _usual_patterns() -> Iterable[ScanPattern]:
    yield ScanPattern("deb", "var/lib/dpkg", system=True)
    yield ScanPattern("deb-folder", "var/lib/dpkg/status.d", system=True)
    for path in ("var/lib/rpm", "usr/lib/sysimage/rpm", "usr/share/rpm"):
        yield ScanPattern("rpm", path, system=True)
    for prefix in _SYSTEM_PREFIXES:
        yield from python_patterns(prefix)
        yield node_pattern(prefix)
    for home in HOMES:
        yield ScanPattern("python", f"{home}/.local/lib/python*/site-packages", system=True)
        for prefix in _USER_PYTHON_PREFIXES:
            yield from python_patterns(f"{home}/{prefix}")
        for prefix in _USER_NODE_PREFIXES:
            yield node_pattern(f"{home}/{prefix}")
    for prefix in ("opt/*", "opt/*/envs/*", "opt/pipx/venvs/*"):
        yield from python_patterns(prefix)
    for prefix in ("opt/*", "usr/local/nvm/versions/node/*", "usr/local/n/versions/node/*"):
        yield node_pattern(prefix)


PATTERNS = tuple(_usual_patterns())
"""The usual directories, in the order in which they are searched."""
