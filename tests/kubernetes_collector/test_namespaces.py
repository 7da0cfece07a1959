"""Several namespaces, each with a watch and a place of its own: Roles in them are enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from broker import wait_until
from kubernetes_api import CLUSTER_UID, ApiServer, error_answer, kubelet_event
from kubernetes_running import RunningCollector, published_events, revisions, wait_for_events

from sematext_agent.kubernetes_collector.settings import NAMESPACES_MAX, KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import SettingsError, load_settings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key

Start = Callable[..., RunningCollector]
A, B = (f"/api/v1/namespaces/{name}/events" for name in "ab")


def add(cluster: ApiServer, name: str, namespace: str) -> int:
    metadata = kubelet_event(name)["metadata"] | {"namespace": namespace}
    return cluster.add(name, metadata=metadata)


async def place(bus: Bus, namespace: str) -> bytes | None:
    return await bus.get(
        CURSORS_BUCKET, bucket_key("kubernetes", "prod", f"{CLUSTER_UID}_{namespace}")
    )


async def test_only_the_configured_namespaces_are_listed_and_watched(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    expected = [add(cluster, "one", "a"), add(cluster, "two", "b")]
    add(cluster, "elsewhere", "c")
    running = start_collector(KUBERNETES_EVENTS_NAMESPACE="a, b,a")
    await wait_until(lambda: len(cluster.watches()) == 2)
    assert {watch.path for watch in cluster.watches()} == {A, B}
    expected += [add(cluster, "three", "b"), add(cluster, "four", "a")]
    add(cluster, "elsewhere too", "c")
    assert set(revisions(await wait_for_events(streams, 4))) == set(expected)
    await running.stop()
    stored = [await place(streams, name) for name in "ab"]
    assert [
        b'"revision":%d' % revision in value
        for revision, value in zip((expected[3], expected[2]), stored, strict=True)
        if value
    ] == [True, True]


async def test_each_namespace_resumes_from_its_own_cursor(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    """A namespace that joins later begins for itself; the first keeps its place."""
    first = start_collector(KUBERNETES_EVENTS_NAMESPACE="a")
    await wait_until(lambda: len(cluster.watches()) == 1)
    expected = [add(cluster, "one", "a")]
    await wait_for_events(streams, 1)
    await first.stop()
    expected += [add(cluster, "two", "a"), add(cluster, "three", "b")]
    second = start_collector(KUBERNETES_EVENTS_NAMESPACE="a,b")
    await wait_for_events(streams, 3)
    await wait_until(lambda: len(cluster.watches()) == 3)
    assert sorted(revisions(await published_events(streams))) == expected
    assert second.count("events_duplicate") == 0
    assert second.count("relists", reason="first start") == 1


async def test_a_denied_namespace_does_not_delay_another(
    cluster: ApiServer, streams: Bus, start_collector: Start
) -> None:
    cluster.denied.add(B)
    running = start_collector(KUBERNETES_EVENTS_NAMESPACE="a,b")
    first = add(cluster, "one", "a")
    await wait_for_events(streams, 1)
    await wait_until(lambda: not running.cluster.ok)
    assert running.cluster.detail.startswith("namespace b: 403")
    second = add(cluster, "two", "a")
    await wait_for_events(streams, 2)
    assert not running.cluster.ok  # what does well hides nothing
    third = add(cluster, "three", "b")
    cluster.denied.clear()
    assert revisions(await wait_for_events(streams, 3)) == [first, second, third]
    await wait_until(lambda: running.cluster.ok)


async def test_a_fatal_failure_in_one_namespace_ends_the_process(
    cluster: ApiServer, start_collector: Start, streams: Bus
) -> None:
    """Of several watches, too, another cluster at the address is noticed."""
    running = start_collector(KUBERNETES_EVENTS_NAMESPACE="a,b")
    await wait_until(lambda: len(cluster.watches()) == 2)
    cluster.revision, cluster.cluster_uid = 5, "99999999-0000-0000-0000-000000000000"
    cluster.next_watch.append(error_answer(500))
    cluster.end_watches()
    with pytest.raises(BaseExceptionGroup, match="unhandled errors"):
        await running.task


@pytest.mark.parametrize(
    ("names", "problem"),
    [
        ("prod-*", "is not the name of a namespace"),
        ("../secrets", "is not the name of a namespace"),
        (",".join(f"n{number}" for number in range(NAMESPACES_MAX + 1)), "names more than"),
    ],
)
def test_an_invalid_list_of_namespaces_is_a_settings_error(names: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load_settings(KubernetesSettings, {"KUBERNETES_EVENTS_NAMESPACE": names})
