"""A hub of three servers, and a receiver."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from fleet_servers import Cluster
from receiver import Receiver, Reply


@pytest.fixture
def cluster(tmp_path: Path) -> Iterator[Cluster]:
    hub = Cluster(tmp_path)
    hub.start()
    yield hub
    hub.kill()


@pytest.fixture
async def receiver() -> AsyncIterator[Receiver]:
    async with Receiver() as listening:
        listening.reply = Reply(seconds=0.02)
        yield listening
