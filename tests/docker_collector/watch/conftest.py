"""A fake engine for each test, and no pause before a snapshot."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from fake_engine import FakeEngine

from sematext_agent.docker_collector import connection


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    """A fake engine on a socket of this test."""
    fake = FakeEngine()
    await fake.listen(tmp_path / "docker.sock")
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _no_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SNAPSHOT_DELAY_SECONDS", 0.01)
