"""What all tests of packages share."""

from __future__ import annotations

import pytest

from sematext_agent.host_collector.packages import follow


@pytest.fixture(autouse=True)
def _rounds_are_short(monkeypatch: pytest.MonkeyPatch) -> None:
    """A new process or container is found after one second, so that tests wait that much less."""
    monkeypatch.setattr(follow, "ROUND_SECONDS", 1.0)
