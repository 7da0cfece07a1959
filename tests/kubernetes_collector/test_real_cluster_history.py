"""Real clusters that are killed, compacted or restored, where $KUBEBUILDER_ASSETS has one."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from broker import wait_until
from control_plane import ADMIN, ControlPlane, missing_assets
from kubernetes_api import kubeconfig
from kubernetes_running import RunningCollector, gaps
from real_cluster import contains, post_event, repeat_event, select_test_events, wait_for_published

from sematext_agent.kubernetes_collector import events_resource, watch
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event

pytestmark = pytest.mark.skipif(bool(missing_assets()), reason=missing_assets() or "-")


Start = Callable[..., RunningCollector]


async def test_a_killed_server_that_starts_again_loses_nothing(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    running = start_on_plane()
    expected = [post_event(plane, "one")]
    await wait_for_published(streams, contains(*expected))
    await asyncio.to_thread(plane.kill, "kube-apiserver")
    await wait_until(lambda: not running.cluster.ok)
    await asyncio.to_thread(plane.start_apiserver)
    expected += [post_event(plane, "two"), repeat_event(plane, "one", 2)]
    events = await wait_for_published(streams, contains(*expected), 60)
    assert sorted(int(body.resource_version) for body in select_test_events(events)) == expected
    assert gaps(events) == []
    assert running.count("relists", reason="expired") == 0


async def test_etcd_compacted_while_the_collector_was_stopped(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    """A real 410: new revisions are published, older ones are not, and a gap reports the rest."""
    first = start_on_plane()
    expected = [post_event(plane, "one")]
    await wait_for_published(streams, contains(*expected))
    await first.stop()
    repeat_event(plane, "one", 2)
    expected += [repeat_event(plane, "one", 3), post_event(plane, "two")]
    await asyncio.to_thread(plane.compact)
    again = start_on_plane()
    events = await wait_for_published(streams, contains(*expected))
    await wait_until(lambda: again.count("events_published", kind="Gap") == 1)
    events = await wait_for_published(streams, lambda events: bool(gaps(events)))
    assert [int(body.resource_version) for body in select_test_events(events)].count(
        expected[0]
    ) == 1
    assert sorted(int(body.resource_version) for body in select_test_events(events)) == expected
    assert again.count("relists", reason="expired") == 1


async def test_etcd_compacted_under_the_watch(
    plane: ControlPlane, streams: Bus, start_on_plane: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The watch goes on; reconnecting from the old cursor of a quiet scope is a real 410."""
    monkeypatch.setattr(events_resource, "WATCH_SECONDS", (2.0, 2.0))
    monkeypatch.setattr(watch, "SHORT_SECONDS", 0.5)
    running = start_on_plane(KUBERNETES_EVENTS_NAMESPACE="default")
    first = post_event(plane, "one")
    await wait_for_published(streams, contains(first))
    for number in range(5):
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"other-{number}"}})
    await asyncio.to_thread(plane.compact)
    second = post_event(plane, "two")
    await wait_for_published(streams, contains(second))
    for number in range(5, 10):
        plane.call("POST", "/api/v1/namespaces", {"metadata": {"name": f"other-{number}"}})
    await asyncio.to_thread(plane.compact)
    await wait_until(lambda: running.count("relists", reason="expired") >= 1, 20)
    third = post_event(plane, "three")
    events = await wait_for_published(streams, contains(third))
    assert [int(body.resource_version) for body in select_test_events(events)] == [
        first,
        second,
        third,
    ]
    assert gaps(events) == []


async def test_etcd_restored_from_a_backup(
    plane: ControlPlane, streams: Bus, start_on_plane: Start
) -> None:
    """The server is then at an older revision than the cursor, whose watch would be silent."""
    running = start_on_plane()
    before = post_event(plane, "one")
    await wait_for_published(streams, contains(before))
    await asyncio.to_thread(plane.stop)
    backup = plane.folder / "backup"
    shutil.copytree(plane.folder / "etcd", backup)
    await asyncio.to_thread(plane.start)
    lost = [post_event(plane, f"lost-{number}") for number in range(50)]
    await wait_for_published(streams, contains(*lost), 60)
    await asyncio.to_thread(plane.stop)
    plane.restore_etcd(backup)
    await asyncio.to_thread(plane.start)
    await wait_until(lambda: running.count("relists", reason="restored") == 1, 60)
    # Revisions are given a second time now, so the new event is known by its text.
    post_event(plane, "after", message="after the restore")

    def complete(events: list[Event]) -> bool:
        return any(body.message == "after the restore" for body in select_test_events(events))

    events = await wait_for_published(streams, complete)
    assert [gap.reason for gap in gaps(events)] == ["restored"]


async def test_expired_events_are_not_published(
    tmp_path: Path, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "short"
    folder.mkdir()
    plane = ControlPlane(folder, event_ttl="3s")
    await asyncio.to_thread(plane.start)
    config = kubeconfig(
        tmp_path / "k", plane.url, certificate_authority=str(plane.certificate), token=ADMIN
    )
    running = RunningCollector(streams, {"KUBECONFIG": str(config)})
    try:
        version = post_event(plane, "short-lived")
        await wait_for_published(streams, contains(version))
        await wait_until(lambda: running.count("watch_frames", type="DELETED") >= 1, 30)
        later = post_event(plane, "later")
        events = await wait_for_published(streams, contains(later))
        assert [int(b.resource_version) for b in select_test_events(events)] == [version, later]
    finally:
        await running.stop()
        await asyncio.to_thread(plane.stop)
