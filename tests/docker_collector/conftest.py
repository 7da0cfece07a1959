"""A real engine for all tests that neither restart nor configure it."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from private_engine import PrivateEngine


@pytest.fixture(scope="session")
def shared_engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PrivateEngine]:
    """A private engine that outlives the test: its history holds the events of earlier ones."""
    folder = tmp_path_factory.mktemp("e")
    (folder / "daemon.json").write_text('{"live-restore": false}')
    engine = PrivateEngine(folder)
    try:
        engine.start()
        engine.import_image()
        yield engine
    finally:
        engine.destroy()
