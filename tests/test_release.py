"""The version of a release, which stands in several files."""

from __future__ import annotations

import re

import yaml
from code_measures import ROOT

from sematext_agent.shared import AGENT_VERSION


def test_chart_and_changelog_have_the_version_of_the_code() -> None:
    chart = yaml.safe_load((ROOT / "deploy/helm/Chart.yaml").read_text())
    released = re.findall(
        r"^## \[?(\d+\.\d+\.\d+)", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE
    )
    assert [chart["version"], chart["appVersion"], *released[:1]] == [AGENT_VERSION] * 3
