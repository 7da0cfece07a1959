"""Real package managers, each in a directory of its own: nothing of the machine is changed.

A test whose tool is not on the machine is skipped, and says which one it wants.
"""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest


def tool(name: str) -> str:
    """Return the path of a command; skip the test where the machine has none."""
    scripts = sysconfig.get_path("scripts")
    path = shutil.which(name, path=f"{scripts}{os.pathsep}{os.environ['PATH']}")
    if path is None:
        pytest.skip(f"needs the command {name}")
    return path


def run(*command: str | Path, **environment: str) -> None:
    """Run a command; a failure shows its output."""
    done = subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environment, check=False
    )
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"


class Dpkg:
    """dpkg with a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.dpkg = tool("dpkg")
        self.admin = root / "var/lib/dpkg"
        for folder in ("info", "updates", "triggers"):
            (self.admin / folder).mkdir(parents=True)
        (self.admin / "status").touch()
        self.built = root.parent / "debs"
        self.built.mkdir()

    def build(self, name: str, version: str, fields: str = "", **files: str) -> Path:
        """Build a package; `files` go into its control directory (`postinst`, `triggers` …)."""
        tree = self.built / f"{name}-{version.replace(':', '%')}"
        control = tree / "DEBIAN"
        control.mkdir(parents=True)
        (tree / "usr/share/doc" / name).mkdir(parents=True)
        (tree / "usr/share/doc" / name / "readme").write_text(version)
        architecture = "" if "Architecture:" in fields else "Architecture: all\n"
        (control / "control").write_text(
            f"Package: {name}\nVersion: {version}\n{architecture}{fields}"
            "Maintainer: Nobody <nobody@example.org>\nDescription: for a test\n"
        )
        for file, text in files.items():
            (control / file).write_text(text)
            (control / file).chmod(0o755)
        target = tree.with_suffix(".deb") if "." not in tree.name else Path(f"{tree}.deb")
        run(tool("dpkg-deb"), "--root-owner-group", "-Znone", "-b", tree, target)
        return target

    def __call__(self, *arguments: str | Path) -> None:
        run(*self.command(*arguments))

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Return the whole command, for the test to run."""
        return [
            self.dpkg,
            f"--root={self.root}",
            f"--log={self.root}/dpkg.log",
            "--force-script-chrootless",
            "--force-unsafe-io",
            "--force-architecture",
            *arguments,
        ]


class Apt:
    """apt-get over a `Dpkg`, with a repository of its own."""

    def __init__(self, dpkg: Dpkg) -> None:
        self.dpkg = dpkg
        self.apt = tool("apt-get")
        tool("dpkg-scanpackages")
        self.folder = dpkg.root.parent / "apt"
        for name in ("etc/preferences.d", "state/lists/partial", "cache/archives/partial"):
            (self.folder / name).mkdir(parents=True)
        (self.folder / "etc/sources.list").write_text(f"deb [trusted=yes] file:{dpkg.built} ./\n")
        options = "".join(f'    "{option}";\n' for option in dpkg.command()[1:])
        self.configuration = self.folder / "apt.conf"
        self.configuration.write_text(
            f'Dir "{self.folder}"; Dir::Etc "etc"; Dir::Etc::SourceParts "none";\n'
            f'Dir::State "state"; Dir::State::status "{dpkg.admin}/status"; Dir::Cache "cache";\n'
            f'Dir::Log "{self.folder}"; APT::Sandbox::User "root"; DPkg::Options {{\n{options}}};\n'
        )

    def update(self) -> None:
        """Publish every package that was built in the repository."""
        index = subprocess.check_output(
            [tool("dpkg-scanpackages"), "--multiversion", "."],
            cwd=self.dpkg.built,
            stderr=subprocess.DEVNULL,
        )
        (self.dpkg.built / "Packages").write_bytes(index)
        self("update")

    def __call__(self, *arguments: str) -> None:
        run(self.apt, "-qy", *arguments, APT_CONFIG=str(self.configuration))


class Rpm:
    """rpm with a root of its own."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.rpm = tool("rpm")
        self.built = root.parent / "rpms"
        self.built.mkdir()
        (root / "var/lib/rpm").mkdir(parents=True)
        self("--initdb")

    def build(self, name: str, version: str, epoch: int | None = None) -> Path:
        """Build a package without files."""
        spec = self.built / f"{name}-{version}.spec"
        spec.write_text(
            f"Name: {name}\nVersion: {version}\nRelease: 1\nSummary: x\nLicense: x\n"
            f"BuildArch: noarch\n{f'Epoch: {epoch}' if epoch else ''}\n%description\nx\n%files\n"
        )
        run(tool("rpmbuild"), "-bb", "--define", f"_topdir {self.built}", spec)
        return self.built / f"RPMS/noarch/{name}-{version}-1.noarch.rpm"

    def __call__(self, *arguments: str | Path) -> None:
        run(*self.command(*arguments))

    def command(self, *arguments: str | Path) -> list[str | Path]:
        """Return the whole command, for the test to run."""
        return [self.rpm, "--root", self.root, "--dbpath", "/var/lib/rpm", *arguments]


def wheel(folder: Path, name: str, version: str) -> Path:
    """Build a wheel with one module."""
    info = f"{name}-{version}.dist-info"
    files = {
        f"{name}.py": f"VERSION = '{version}'\n",
        f"{info}/METADATA": f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n\nLong.\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(f"{path},sha256={_digest(text)},{len(text)}\n" for path, text in files.items())
    path = folder / f"{name}-{version}-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for file, text in {**files, f"{info}/RECORD": f"{record}{info}/RECORD,,\n"}.items():
            archive.writestr(file, text)
    return path


def _digest(text: str) -> str:
    digest = hashlib.sha256(text.encode()).digest()
    return base64.urlsafe_b64encode(digest).rstrip(b"=").decode()


class Pip:
    """pip, installing into a virtual environment at `prefix`."""

    def __init__(self, prefix: Path) -> None:
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        self.prefix = prefix
        self.packages = prefix / "lib" / version / "site-packages"
        run(sys.executable, "-m", "venv", "--without-pip", prefix)

    def __call__(self, *arguments: str | Path) -> None:
        run(
            sys.executable,
            "-m",
            "pip",
            "--python",
            self.prefix / "bin/python",
            "--no-cache-dir",
            "--disable-pip-version-check",
            "--no-input",
            *arguments,
            PIP_ROOT_USER_ACTION="ignore",
        )

    def install(self, *wheels: Path) -> None:
        self("install", "--no-index", "--no-deps", *wheels)

    def uninstall(self, *names: str) -> None:
        self("uninstall", "-y", *names)


class Npm:
    """npm, with its global packages at `prefix`."""

    def __init__(self, prefix: Path, folder: Path) -> None:
        self.npm = tool("npm")
        self.prefix = prefix
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def pack(self, name: str, version: str) -> Path:
        """Return a package in the form in which `npm pack` makes it."""
        manifest = json.dumps({"name": name, "version": version}).encode()
        entry = tarfile.TarInfo("package/package.json")
        entry.size = len(manifest)
        path = self.folder / f"{name.removeprefix('@').replace('/', '-')}-{version}.tgz"
        with tarfile.open(path, "w:gz") as archive:
            archive.addfile(entry, io.BytesIO(manifest))
        return path

    def __call__(self, *arguments: str | Path) -> None:
        run(
            self.npm,
            *arguments,
            "--offline",
            "--no-audit",
            "--no-fund",
            "--prefix",
            self.prefix,
            "--cache",
            self.folder / "cache",
            "--no-update-notifier",
        )


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock of a package manager in another process."""
    script = "import fcntl, sys; f = open(sys.argv[1], 'w'); fcntl.lockf(f, fcntl.LOCK_EX)"
    command: list[str | Path] = [sys.executable, "-c"]
    command += [f"{script}; print(flush=True); sys.stdin.read()", path]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.communicate()
