"""Ids of events, and cursors, are those of version 0.1.0, from which the values here come.

Another id for the same event would make it arrive a second time after an upgrade.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import msgspec
from virtual_time import ManualClock

from sematext_agent.docker_collector.engine import EngineContainer
from sematext_agent.docker_collector.gaps import GapReporter
from sematext_agent.docker_collector.reconciler import synthetic_event
from sematext_agent.docker_collector.state import EngineState
from sematext_agent.host_collector.kernel.cursor import KernelLogCursor
from sematext_agent.host_collector.kernel.log_reader import KernelRecord
from sematext_agent.host_collector.kernel.translate import KernelLogTranslator
from sematext_agent.host_collector.packages.inventory import ScanRoot
from sematext_agent.host_collector.packages.inventory_store import StoreIndex, _InventorySlot
from sematext_agent.kubernetes_collector.cursor import WatchCursor, list_gap
from sematext_agent.kubernetes_collector.translate import Cluster
from sematext_agent.lifecycle_collector.translate import RunRecord, started_event

ENGINE_CURSOR = (
    b'{"address":"unix:///x","latest":7,"recent":"AAAAAAAAAAE=","containers":{"c1":["web","nginx",'
    b'true,7]},"images":{"i":["a:1"]},"unreconciled":true}'
)


def test_the_id_of_a_synthetic_event() -> None:
    container = EngineContainer("c1", "web", "nginx", {}, False, 1, 2, 5, 0, None)
    event = synthetic_event("die", 5, container, "host", "web-01")
    assert event.id == "e2be28e983f00feac9ba88c8ef9787a2"


def test_the_id_of_a_gap_of_the_engine_at_any_time() -> None:
    state = EngineState("unix:///x", ENGINE_CURSOR)
    connection: Any = SimpleNamespace(request_snapshot=lambda: None)
    clock = ManualClock()
    gaps = GapReporter("host", "web-01", state, connection, clock)
    for _ in range(2):
        assert gaps.report("overflow", "d", lost=3).id == "74c28262ababce780c7de6c0effc52cd"
        clock.advance(1)


def test_the_id_of_a_gap_of_a_cluster_at_any_time() -> None:
    before = WatchCursor(5, 1000.0)
    for until in (5000.0, 6000.0):
        gap = list_gap(Cluster("uid", "prod"), "uid_ns", before, "expired", until, 2)
        assert gap is not None
        assert gap.id == "f07ef8161fd62a7aaba1c2922023e443"


def test_the_id_of_a_kill() -> None:
    cursor = KernelLogCursor(boot="b", sequence=4, kills=0, time=7)
    translator = KernelLogTranslator("web-01", "b", cursor, lambda: 0, ManualClock())
    text = (
        "Out of memory: Killed process 9 (hog) total-vm:9kB, anon-rss:4kB, file-rss:0kB, "
        "shmem-rss:0kB"
    )
    events = [o.event for o in translator.translate([KernelRecord(5, 8, 0, False, text)])]
    assert [event and event.id for event in events] == ["bb1d8bd07f2269b9ad33ad81f02c9e1c"]


def test_the_id_of_a_run() -> None:
    event = started_event(RunRecord("r", "i", 1, 2, 3), "web-01")
    assert event.id == "0dddd5aeb08984e83ff49ccb68394900"


def test_the_bytes_of_every_cursor() -> None:
    state = EngineState("unix:///x", ENGINE_CURSOR)
    assert state.cursor(state.images) == ENGINE_CURSOR
    cursors: dict[msgspec.Struct, bytes] = {
        WatchCursor(5, 1.5): b'{"revision":5,"seen":1.5}',
        KernelLogCursor(boot="b", sequence=5, kills=2, time=7): (
            b'{"boot":"b","sequence":5,"kills":2,"time":7}'
        ),
        StoreIndex(16, ("", "c1")): b'{"slots":16,"settled":["","c1"]}',
        RunRecord("r", "i", 1, 2, 3): (
            b'{"run":"r","identity":"i","started":1,"alive":2,"stopped":3}'
        ),
    }
    assert {cursor: msgspec.json.encode(cursor) for cursor in cursors} == cursors
    slot = _InventorySlot(ScanRoot("deb", "var/lib/dpkg", "c1"), 3, 0, 1, b"z")
    packed = b"\x95\x93\xa3deb\xacvar/lib/dpkg\xa2c1\x03\x00\x01\xc4\x01z"
    assert msgspec.msgpack.encode(slot) == packed
