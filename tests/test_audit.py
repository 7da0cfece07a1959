"""tests/audit.sh, with the advisory service or uv itself replaced by what cannot be ordered."""

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
    """A uv that reaches no registry; how its audit ends, the test says in the file `audit`."""
    fake = tmp_path / "uv"
    fake.write_text(f'#!/bin/sh\n[ "$1" != audit ] || . "{tmp_path}/audit"\n')
    fake.chmod(0o755)
    return fake


def audit(uv: Path, says: str) -> subprocess.CompletedProcess[str]:
    (uv.parent / "audit").write_text(says)
    return subprocess.run(
        [AUDIT, uv, uv.parent / "sbom.json"], capture_output=True, text=True, check=False
    )


def test_a_vulnerability_fails_and_is_named(uv: Path) -> None:
    done = audit(uv, "echo 'jinja2 2.4.1 has 1 known vulnerability: PYSEC-2019-217'; exit 1")
    assert done.returncode == 1
    assert "jinja2 2.4.1" in done.stderr


def test_nothing_found_is_nothing_said(uv: Path) -> None:
    done = audit(uv, "echo 'Found no known vulnerabilities'")
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_any_other_fault_fails(uv: Path) -> None:
    done = audit(uv, "echo 'error: unexpected argument' >&2; exit 2")
    assert done.returncode == 2
    assert "unexpected argument" in done.stderr


def test_a_service_that_cannot_be_reached_is_one_line(tmp_path: Path) -> None:
    """With the real uv, whose words for it the script knows; it asks no one but the service."""
    uv = tmp_path / "uv"
    # What needs a registry is left out: a lock of one dependency stands in for it.
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
