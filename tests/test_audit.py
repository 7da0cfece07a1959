"""tests/audit.sh with a scripted uv, or with an advisory service that cannot be reached."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

AUDIT = Path(__file__).parent / "audit.sh"
REAL = Path(sys.executable).parent / "uv"


@pytest.fixture
def uv(tmp_path: Path) -> Path:
    """A uv without a registry, whose `audit` runs the script of that name."""
    fake = tmp_path / "uv"
    fake.write_text(f'#!/bin/sh\n[ "$1" != audit ] || . "{tmp_path}/audit"\n')
    fake.chmod(0o755)
    return fake


def audit(uv: Path, script: str) -> subprocess.CompletedProcess[str]:
    (uv.parent / "audit").write_text(script)
    return subprocess.run(
        [AUDIT, uv, uv.parent / "sbom.json"], capture_output=True, text=True, check=False
    )


def test_a_vulnerability_fails_with_its_name(uv: Path) -> None:
    done = audit(uv, "echo 'jinja2 2.4.1 has 1 known vulnerability: PYSEC-2019-217'; exit 1")
    assert done.returncode == 1
    assert "jinja2 2.4.1" in done.stderr


def test_no_vulnerability_prints_nothing(uv: Path) -> None:
    done = audit(uv, "echo 'Found no known vulnerabilities'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_an_error_of_uv_fails(uv: Path) -> None:
    done = audit(uv, "echo 'error: unexpected argument' >&2; exit 2")
    assert done.returncode == 2
    assert "unexpected argument" in done.stderr


def test_an_unreachable_service_is_a_line_and_no_failure(tmp_path: Path) -> None:
    """With the real uv, whose message the script matches."""
    uv = tmp_path / "uv"
    # Commands that need a registry are replaced by a lock of a single dependency.
    uv.write_text(
        f'#!/bin/sh\ncase "$1" in\n'
        f'  audit) exec "{REAL}" "$@" ;;\n'
        f"  init) cat > pyproject.toml <<'.'\n{PROJECT}.\ncat > uv.lock <<'.'\n{LOCK}.\n;;\nesac\n"
    )
    uv.chmod(0o755)
    done = subprocess.run(
        [AUDIT, uv, tmp_path / "sbom.json"],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"AUDIT_URL": "http://127.0.0.1:9", "UV_HTTP_RETRIES": "0"},
    )
    assert done.returncode == 0, done.stderr
    (line,) = done.stderr.splitlines()
    assert line.startswith("audit: the advisory service cannot be reached")


PROJECT = """[project]
name = "x"
version = "1"
requires-python = ">=3.11"
dependencies = ["jinja2==2.4.1"]
"""
LOCK = f"""version = 1
requires-python = ">=3.11"

[[package]]
name = "jinja2"
version = "2.4.1"
source = {{ registry = "https://registry.invalid/simple" }}
sdist = {{ url = "https://registry.invalid/Jinja2-2.4.1.tar.gz", hash = "sha256:{"0" * 64}" }}

[[package]]
name = "x"
version = "1"
source = {{ virtual = "." }}
dependencies = [{{ name = "jinja2" }}]

[package.metadata]
requires-dist = [{{ name = "jinja2", specifier = "==2.4.1" }}]
"""
