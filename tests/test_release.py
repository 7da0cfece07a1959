"""The distributions of a release, and what each of them holds."""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest
from code_measures import ROOT
from hatchling.builders.sdist import SdistBuilder


@pytest.mark.parametrize(
    "project", ["shared", *(f"services/{path.name}" for path in (ROOT / "services").iterdir())]
)
def test_every_distribution_carries_the_licence(project: str, tmp_path: Path) -> None:
    """What is built from it, a wheel too, then has it: hatchling looks for it in the project."""
    (path,) = SdistBuilder(str(ROOT / project)).build(directory=str(tmp_path))
    with tarfile.open(path) as archive:
        (name,) = (name for name in archive.getnames() if name.endswith("/LICENSE"))
        licence = archive.extractfile(name)
        assert licence is not None
        assert licence.read() == (ROOT / "LICENSE").read_bytes()
