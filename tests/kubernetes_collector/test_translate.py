"""Events in both spellings and in odd shapes: all are translated, each with a sane time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from kubernetes_api import ApiServer, kubelet_event
from kubernetes_running import RunningCollector, wait_for_events

from sematext_agent.kubernetes_collector.translate import Cluster, RawEvent, translate
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Event, KubernetesEvent, event_id, parse_rfc3339

CLUSTER = Cluster(uid="cluster-uid", name="prod")
NOW = parse_rfc3339("2026-11-23T15:00:00Z")


def translated(event: dict[str, Any]) -> tuple[Event, KubernetesEvent]:
    raw = msgspec.json.decode(msgspec.json.encode(event), type=RawEvent)
    translated = translate(raw, CLUSTER, NOW)
    assert isinstance(translated.body, KubernetesEvent)
    return translated, translated.body


def raw(**fields: Any) -> dict[str, Any]:
    metadata = {"name": "web.17", "namespace": "shop", "uid": "e-1", "resourceVersion": "42"}
    return {"metadata": metadata} | fields


def test_an_event_as_the_kubelet_writes_it() -> None:
    event, body = translated(
        raw(
            involvedObject={
                "kind": "Pod",
                "namespace": "shop",
                "name": "web",
                "uid": "p-1",
                "fieldPath": "spec.containers{nginx}",
            },
            reason="BackOff",
            message="Back-off restarting failed container",
            source={"component": "kubelet", "host": "node-1"},
            firstTimestamp="2026-11-23T14:00:00Z",
            lastTimestamp="2026-11-23T14:30:00Z",
            count=17,
            type="Warning",
            eventTime=None,
            reportingComponent="kubelet",
            reportingInstance="node-1",
        )
    )
    assert event.id == event_id("cluster-uid", "e-1", "42")
    assert (event.time, event.origin) == ("2026-11-23T14:30:00.000000000Z", "prod")
    assert body == KubernetesEvent(
        uid="e-1",
        resource_version="42",
        reason="BackOff",
        type="Warning",
        cluster="prod",
        message="Back-off restarting failed container",
        namespace="shop",
        kind="Pod",
        name="web",
        object_uid="p-1",
        node="node-1",
        controller="kubelet",
        count=17,
    )


def test_an_event_in_the_newer_spelling() -> None:
    event, body = translated(
        raw(
            regarding={"kind": "Pod", "namespace": "shop", "name": "web", "uid": "p-1"},
            reason="FailedScheduling",
            note="0/3 nodes are available",
            type="Warning",
            eventTime="2026-11-23T14:00:00.123456Z",
            series={"count": 9, "lastObservedTime": "2026-11-23T14:10:00.654321Z"},
            reportingController="default-scheduler",
            reportingInstance="default-scheduler-master-0",
            action="Scheduling",
            deprecatedSource={},
            deprecatedFirstTimestamp=None,
            deprecatedLastTimestamp=None,
        )
    )
    assert event.time == "2026-11-23T14:10:00.654321000Z"
    assert (body.message, body.count, body.action) == ("0/3 nodes are available", 9, "Scheduling")
    assert (body.controller, body.node) == ("default-scheduler", "")
    assert (body.kind, body.namespace, body.name, body.object_uid) == ("Pod", "shop", "web", "p-1")


def test_an_event_of_a_node_names_the_node_and_no_namespace() -> None:
    _, body = translated(raw(involvedObject={"kind": "Node", "name": "node-7", "uid": "node-7"}))
    assert (body.node, body.namespace, body.name) == ("node-7", "", "node-7")


def test_an_event_without_its_object_keeps_its_own_namespace() -> None:
    _, body = translated(raw(reason="Odd"))
    assert (body.namespace, body.kind, body.name) == ("shop", "", "")


@pytest.mark.parametrize(
    ("fields", "time"),
    [
        ({"eventTime": "2026-11-23T14:00:00.5Z", "lastTimestamp": None}, "14:00:00.500000000"),
        ({"firstTimestamp": "2026-11-23T14:00:00Z"}, "14:00:00.000000000"),
        ({"lastTimestamp": "2026-11-23T16:00:00+02:00"}, "14:00:00.000000000"),
        ({"lastTimestamp": "2026-11-23T14:00:00.123456789Z"}, "14:00:00.123456000"),
        (
            {"lastTimestamp": "0001-01-01T00:00:00Z", "eventTime": "2026-11-23T14:00:00Z"},
            "14:00:00.000000000",
        ),
        ({"lastTimestamp": "yesterday", "eventTime": "2026-11-23T14:00:00Z"}, "14:00:00.000000000"),
        ({"lastTimestamp": 1795449537, "eventTime": {}}, "15:00:00.000000000"),
        ({"lastTimestamp": "2099-01-01T00:00:00Z"}, "15:00:00.000000000"),
        ({"lastTimestamp": "9999-12-31T23:59:59-12:00"}, "15:00:00.000000000"),
        ({"lastTimestamp": "2026-11-23T15:04:00Z"}, "15:04:00.000000000"),
        ({}, "15:00:00.000000000"),
    ],
)
def test_the_time_is_the_first_usable_one(fields: dict[str, Any], time: str) -> None:
    assert translated(raw(**fields))[0].time == f"2026-11-23T{time}Z"


def test_the_creation_time_is_the_last_choice_before_now() -> None:
    event = raw()
    event["metadata"]["creationTimestamp"] = "2026-11-23T13:00:00Z"
    assert translated(event)[0].time == "2026-11-23T13:00:00.000000000Z"


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"count": "3"}, 3),
        ({"count": None}, 1),
        ({"count": 0}, 1),
        ({"count": "many"}, 1),
        ({"count": -4}, 1),
        ({"count": [3]}, 1),
        ({"count": 2, "series": {"count": 5}}, 5),
        ({"deprecatedCount": 4}, 4),
        ({"series": None}, 1),
        ({"count": 1e400}, 1),
    ],
)
def test_a_count_of_any_type_is_accepted(fields: dict[str, Any], count: int) -> None:
    assert translated(raw(**fields))[1].count == count


async def test_events_with_odd_fields_are_published_from_list_and_watch(
    cluster: ApiServer, streams: Bus, start_collector: Callable[..., RunningCollector]
) -> None:
    odd: list[dict[str, Any]] = [
        {"lastTimestamp": None, "firstTimestamp": None, "eventTime": "2026-11-23T14:00:00.5Z"},
        {"involvedObject": None},
        {"involvedObject": {}, "reason": None, "message": None, "type": None},
        {"count": "3"},
        {"series": {"count": 2, "lastObservedTime": None}},
        {"source": None, "reportingComponent": "", "reportingInstance": ""},
        {"somethingNew": {"deep": [1, 2, {"x": None}]}, "related": None},
        {"message": "line one\nline two\u2028\x00", "type": "Unheard"},
    ]
    for number, fields in enumerate(odd):
        cluster.add(f"listed{number}", **fields)
    # Ten years, because one of them has a fixed time.
    running = start_collector(KUBERNETES_EVENTS_LOOKBACK="87600h")
    await wait_for_events(streams, len(odd))
    for number, fields in enumerate(odd):
        cluster.add(f"watched{number}", **fields)
    events = await wait_for_events(streams, 2 * len(odd))
    assert running.count("records_undecodable") == 0
    assert all(parse_rfc3339(event.time) for event in events)
    types = {event.body.type for event in events if isinstance(event.body, KubernetesEvent)}
    assert types == {"Warning", "Normal", "Unheard"}


def test_the_scripted_event_is_that_of_a_kubelet() -> None:
    assert translated(kubelet_event("x") | raw())[1].kind == "Pod"
