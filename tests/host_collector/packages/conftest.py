"""Fixtures of all tests of packages."""

from __future__ import annotations

from pathlib import Path

import pytest
from package_run import write_distribution


@pytest.fixture
def host(tmp_path: Path) -> Path:
    """Return the root of a host with one Python package."""
    write_distribution(tmp_path / "host/usr/lib/python3/dist-packages", "base", "1.0")
    return tmp_path / "host"
