"""A release: the version, which stands in several files, and what its distributions hold."""

from __future__ import annotations

import re
import tarfile
from pathlib import Path

import pytest
import yaml
from code_measures import ROOT
from hatchling.builders.sdist import SdistBuilder

from sematext_agent.shared import AGENT_VERSION


def test_chart_and_changelog_have_the_version_of_the_code() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())
    released = re.findall(
        r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert [chart["version"], chart["appVersion"], *released[:1]] == [AGENT_VERSION] * 3


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
