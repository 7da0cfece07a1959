"""Kinds of tests, their event loop, and the real parts they need: nats-server, bus, engine."""

from __future__ import annotations

import asyncio
import gc
import os
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

KINDS = {
    "fleet/": "fleet",
    "chaos/": "campaign",
    "e2e/test_compose": "images",
    "e2e/test_page.py": "browser",
    "kubernetes_collector/test_real_cluster": "cluster",
    "deploy/test_chart_installed.py": "cluster",
    "upgrade/": "upgrade",
}
"""The marker of every test whose path in tests/ starts so; the Makefile selects by them."""
TIMEOUTS_SECONDS = {"fleet": 600, "campaign": 300, "images": 900, "install": 300, "cluster": 300}
"""For the tests of a kind, where the time-out of pyproject.toml is too short."""
GROUPS = {
    # One after the other: each collector gets the events that every test causes at the engine.
    "e2e/test_documents.py": "engine of this machine",
    "e2e/test_faults.py": "engine of this machine",
    # They read the log of the kernel, which is one for the machine.
    "host_collector/kernel/test_log_reader.py": "log of the kernel",
    "host_collector/kernel/test_real_kills.py": "log of the kernel",
    # Each takes the whole machine: a thousand hosts, up to six brokers.
    "fleet/test_cluster.py": "fleet",
    "fleet/test_forwarders.py": "fleet",
    "fleet/test_leaf.py": "fleet",
    # Each has a fixture that takes seconds, for all its tests.
    "e2e/test_page.py": "page",
    "deploy/test_chart.py": "chart",
    "deploy/test_units.py": "units",
}
"""The group of every test whose path in tests/ starts so; a group stays on one worker."""


def find_by_path(table: dict[str, str], path: str) -> str | None:
    """Return the value of the key with which `path` starts, below tests/."""
    path = path.removeprefix("tests/")
    return next((value for key, value in table.items() if path.startswith(key)), None)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Return a scheduler for `-n` that hands out tests one by one, and groups as a whole.

    The `--dist=loadgroup` of xdist 3.8 has no effect with the node ids of pytest 9.2.
    """
    from xdist.scheduler import LoadScopeScheduling

    scheduler = LoadScopeScheduling(config, log)
    scheduler._split_scope = lambda nodeid: find_by_path(GROUPS, nodeid) or nodeid
    return scheduler


def pytest_configure() -> None:
    """Give the processes that tests start what a terminal gives them.

    Whoever runs tests in the background, or under nohup, has all that they start ignore SIGINT and
    SIGHUP, and readline exports the size of its own terminal.
    """
    for name in ("COLUMNS", "LINES"):
        os.environ.pop(name, None)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark tests with their kind, and put those of real processes first: they take the longest."""
    for item in items:
        if kind := find_by_path(KINDS, item.nodeid):
            item.add_marker(kind)
        for kind, seconds in TIMEOUTS_SECONDS.items():
            if item.get_closest_marker(kind):
                item.add_marker(pytest.mark.timeout(seconds))
    items.sort(key=lambda item: not item.nodeid.startswith("tests/e2e/"))


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


@pytest.fixture(autouse=True)
def _collect_leaked_sockets(request: pytest.FixtureRequest) -> Iterator[None]:
    """Collect the sockets that a test may leave, so that no other test is blamed for them."""
    yield
    filters = [text for mark in request.node.iter_markers("filterwarnings") for text in mark.args]
    if "ignore::ResourceWarning" in filters:
        gc.collect()


@pytest.fixture
def nats_server(tmp_path: Path) -> Iterator[NatsServer]:
    """A running nats-server of this test."""
    store = tmp_path / "nats"
    store.mkdir()
    server = NatsServer(store)
    server.start()
    yield server
    server.stop()


@pytest.fixture
async def connection(nats_server: NatsServer) -> AsyncIterator[bus.Bus]:
    """A bus to the nats-server of this test."""
    connected = await bus.connect(ServiceSettings(nats_url=(nats_server.url,)), "test")
    yield connected
    await connected.close()


@pytest.fixture
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """A running `PrivateEngine` of this test."""
    from private_engine import PrivateEngine  # only here: it imports the SDK

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
