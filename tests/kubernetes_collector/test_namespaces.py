"""Several namespaces, each with a watch and a place of its own: Roles in them are enough."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from broker import eventually
from kubernetes_api import CLUSTER_UID, ApiServer, an_event, fails
from kubernetes_running import Collecting, revisions, told, until_told

from sematext_agent.kubernetes_collector.settings import NAMESPACES_MAX, KubernetesSettings
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.settings import SettingsError, load_settings
from sematext_agent.shared.subjects import CURSORS_BUCKET, bucket_key

Start = Callable[..., Collecting]
A, B = (f"/api/v1/namespaces/{name}/events" for name in "ab")


def add(cluster: ApiServer, name: str, namespace: str) -> int:
    metadata = an_event(name)["metadata"] | {"namespace": namespace}
    return cluster.add(name, metadata=metadata)


async def place(bus: Bus, namespace: str) -> bytes | None:
    return await bus.get(
        CURSORS_BUCKET, bucket_key("kubernetes", "prod", f"{CLUSTER_UID}_{namespace}")
    )


async def test_each_is_listed_and_watched_and_others_are_not(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    expected = [add(cluster, "one", "a"), add(cluster, "two", "b")]
    add(cluster, "elsewhere", "c")
    running = collecting(KUBERNETES_EVENTS_NAMESPACE="a, b,a")
    await eventually(lambda: len(cluster.watches()) == 2)
    assert {watch.path for watch in cluster.watches()} == {A, B}
    expected += [add(cluster, "three", "b"), add(cluster, "four", "a")]
    add(cluster, "elsewhere too", "c")
    assert set(revisions(await until_told(streams, 4))) == set(expected)
    await running.stop()
    stored = [await place(streams, name) for name in "ab"]
    assert [
        b'"revision":%d' % revision in value
        for revision, value in zip((expected[3], expected[2]), stored, strict=True)
        if value
    ] == [True, True]


async def test_after_a_restart_each_goes_on_from_its_own_place(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    """A namespace that joins later begins for itself; the first keeps its place."""
    first = collecting(KUBERNETES_EVENTS_NAMESPACE="a")
    await eventually(lambda: len(cluster.watches()) == 1)
    expected = [add(cluster, "one", "a")]
    await until_told(streams, 1)
    await first.stop()
    expected += [add(cluster, "two", "a"), add(cluster, "three", "b")]
    second = collecting(KUBERNETES_EVENTS_NAMESPACE="a,b")
    await until_told(streams, 3)
    await eventually(lambda: len(cluster.watches()) == 3)
    assert sorted(revisions(await told(streams))) == expected
    assert second.count("events_duplicate") == 0
    assert second.count("relists", reason="first start") == 1


async def test_what_is_denied_in_one_holds_up_no_other(
    cluster: ApiServer, streams: Bus, collecting: Start
) -> None:
    cluster.denied.add(B)
    running = collecting(KUBERNETES_EVENTS_NAMESPACE="a,b")
    first = add(cluster, "one", "a")
    await until_told(streams, 1)
    await eventually(lambda: not running.cluster.ok)
    assert running.cluster.detail.startswith("namespace b: 403")
    second = add(cluster, "two", "a")
    await until_told(streams, 2)
    assert not running.cluster.ok  # what does well hides nothing
    third = add(cluster, "three", "b")
    cluster.denied.clear()
    assert revisions(await until_told(streams, 3)) == [first, second, third]
    await eventually(lambda: running.cluster.ok)


async def test_what_fails_in_one_ends_the_process(
    cluster: ApiServer, collecting: Start, streams: Bus
) -> None:
    """Of several watches, too, another cluster at the address is noticed."""
    running = collecting(KUBERNETES_EVENTS_NAMESPACE="a,b")
    await eventually(lambda: len(cluster.watches()) == 2)
    cluster.revision, cluster.cluster_uid = 5, "99999999-0000-0000-0000-000000000000"
    cluster.next_watch.append(fails(500))
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
def test_what_is_no_list_of_namespaces_is_refused(names: str, problem: str) -> None:
    with pytest.raises(SettingsError, match=problem):
        load_settings(KubernetesSettings, {"KUBERNETES_EVENTS_NAMESPACE": names})
