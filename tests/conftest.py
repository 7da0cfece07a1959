"""The real parts that tests stand on: a nats-server of their own, and a bus to it."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from broker import NatsServer
from small_disk import SmallDisk, mount_small_disk
from virtual_time import ManualClock, VirtualTimeLoop

from sematext_agent.shared import bus
from sematext_agent.shared.settings import ServiceSettings


def pytest_configure() -> None:
    """Takes signals as in a terminal: what runs tests in the background, or under nohup, has
    everything that they start ignore SIGINT and SIGHUP."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


def pytest_asyncio_loop_factories(
    item: pytest.Item,
) -> dict[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Return the event loop of an async test: that of virtual time where it is marked so."""
    if item.get_closest_marker("virtual_time"):
        return {"virtual": VirtualTimeLoop}
    return {"real": asyncio.new_event_loop}


@pytest.fixture
async def manual_clock() -> ManualClock:
    """A clock that the test moves; under `virtual_time` the sleeps of the loop move it too."""
    loop = asyncio.get_running_loop()
    return ManualClock(loop.time) if isinstance(loop, VirtualTimeLoop) else ManualClock()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item,
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Escape what UTF-8 cannot encode in captured output: a worker could not send the report."""
    report = yield
    report.sections = [
        (title, text.encode(errors="backslashreplace").decode()) for title, text in report.sections
    ]
    return report


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    store = tmp_path / "nats"
    store.mkdir()
    server = NatsServer(store)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[bus.Bus]:
    """A bus to the server of this test."""
    connected = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "test")
    yield connected
    await connected.close()


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A `PrivateEngine` of this test."""
    from private_engine import PrivateEngine  # where it is asked for: it imports the SDK

    folder = tmp_path_factory.mktemp("e")
    (folder / "daemon.json").write_text('{"live-restore": false}')
    private = PrivateEngine(folder)
    try:
        private.start()
        private.import_image()
        yield private
    finally:
        private.destroy()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[SmallDisk]:
    """Mount a small disk that the test may fill."""
    with mount_small_disk(tmp_path / "disk") as disk:
        if disk is None:
            pytest.skip("a disk of its own takes root and the right to mount")
        yield disk
