"""Lines cut anywhere, and whatever a line may hold."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import msgspec
import pytest
from kubernetes_api import ApiServer, Exchange, encode_frame, kubelet_event
from kubernetes_running import RunningCollector, wait_for_events

from sematext_agent.kubernetes_collector.api import ApiError
from sematext_agent.kubernetes_collector.events_resource import LineSplitter
from sematext_agent.kubernetes_collector.frames import (
    LINE_BYTES_MAX,
    UndecodableError,
    decode_frame,
    decode_item,
    decode_page,
)
from sematext_agent.shared.bus import Bus
from sematext_agent.shared.events import Gap, KubernetesEvent

TWO = [
    encode_frame("ADDED", kubelet_event("a", message="žluťoučký kůň \u2028 \x85 \x0b 🐴")),
    encode_frame("MODIFIED", kubelet_event("b", message="x" * 50)),
]


@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_stream_cut_at_any_byte_gives_the_same_lines(end: bytes) -> None:
    stream = end.join(line.rstrip() for line in TWO) + end
    whole = [line.strip() for line in LineSplitter().split(stream)]
    assert whole == [line.strip() for line in TWO]
    for cut in range(len(stream)):
        splitter = LineSplitter()
        parts = splitter.split(stream[:cut]) + splitter.split(stream[cut:])
        assert [line.strip() for line in parts] == whole
    splitter = LineSplitter()
    one_by_one = [line for byte in stream for line in splitter.split(bytes([byte]))]
    assert [line.strip() for line in one_by_one] == whole


def test_an_incomplete_line_is_kept_until_its_end_arrives() -> None:
    splitter = LineSplitter()
    assert splitter.split(b'{"a":1}\n{"b"') == [b'{"a":1}']
    assert splitter.split(b"") == []
    assert splitter.split(b":2}\n\n\n") == [b'{"b":2}']


def test_a_line_without_end_does_not_fill_the_memory() -> None:
    splitter = LineSplitter()
    for _ in range(40):
        assert splitter.split(b"x" * 1024 * 1024) == []
    assert sum(map(len, splitter._parts)) <= LINE_BYTES_MAX + 1024 * 1024
    (line, good) = splitter.split(b"\n{}\n")
    assert good == b"{}"
    with pytest.raises(UndecodableError, match="more than"):
        decode_frame(line)


async def test_an_event_over_the_size_limit_becomes_a_gap_and_the_next_is_published(
    cluster: ApiServer, streams: Bus, start_collector: Callable[..., RunningCollector]
) -> None:
    """The large one is more than the stream takes: a Gap stands for it, and the rest goes on."""
    cluster.revision = 103

    async def answer(exchange: Exchange) -> None:
        await exchange.head()
        events = [
            kubelet_event(str(n), message="ž" * 2 * 1024 * 1024 if n == 1 else "é")
            for n in range(3)
        ]
        for number, event in enumerate(events):
            event["metadata"]["resourceVersion"] = str(101 + number)
        data = b"".join(encode_frame("ADDED", event) for event in events)
        for start in range(0, len(data), 60_001):
            await exchange.chunk(data[start : start + 60_001])
        await asyncio.sleep(3600)

    cluster.next_watch.append(answer)
    start_collector(KUBERNETES_EVENTS_LOOKBACK="0")
    bodies = [event.body for event in await wait_for_events(streams, 3)]
    assert [body.message for body in bodies if isinstance(body, KubernetesEvent)] == ["é", "é"]
    assert [body.reason for body in bodies if isinstance(body, Gap)] == ["too_large"]


def test_text_that_is_not_utf8_is_repaired() -> None:
    line = encode_frame(
        "ADDED", kubelet_event("a", message="broken") | {"metadata": {"resourceVersion": "7"}}
    )
    frame = decode_frame(line.replace(b"broken", b"bro\xffken"))
    assert (frame.kind, frame.revision) == ("ADDED", 7)
    assert frame.event is not None
    assert frame.event.message == "bro\ufffdken"


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"null",
        b"[]",
        b"{}",
        b'{"type":"ADDED"}',
        b'{"type":"ADDED","object":null}',
        b'{"type":"ADDED","object":{"metadata":{}}}',
        b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"new"}}}',
        b'{"type":"DELETED","object":{"kind":"Event"}}',
        b'{"type":"ADDED","object":' + b"[" * 100_000,
        b"\xff\xff",
    ],
)
def test_a_line_that_is_not_a_frame_is_undecodable(line: bytes) -> None:
    with pytest.raises(UndecodableError):
        decode_frame(line)


@pytest.mark.parametrize(
    ("status", "code"),
    [
        ({"code": 410, "reason": "Expired"}, 410),
        ({"code": 500, "reason": "Expired"}, 410),
        ({"reason": "Gone"}, 410),
        ({"code": 504, "reason": "Timeout", "message": "etcd"}, 504),
        ({"code": None, "message": None}, 500),
        ({}, 500),
    ],
)
def test_an_error_frame_ends_the_watch_with_its_status(status: object, code: int) -> None:
    line = msgspec.json.encode({"type": "ERROR", "object": status})
    with pytest.raises(ApiError) as caught:
        decode_frame(line)
    assert caught.value.status == code


@pytest.mark.parametrize("body", [b"", b"<html>", b"{}", b'{"metadata":{"resourceVersion":"x"}}'])
def test_a_body_that_is_not_a_page_is_an_api_error(body: bytes) -> None:
    with pytest.raises(ApiError, match="not a list of events"):
        decode_page(body)


def test_a_list_without_items_is_empty() -> None:
    page = decode_page(b'{"metadata":{"resourceVersion":"5","continue":null},"items":null}')
    assert (page.revision, page.token, page.items) == (5, "", None)


def test_an_undecodable_item_does_not_affect_the_rest_of_its_page() -> None:
    page = decode_page(
        b'{"metadata":{"resourceVersion":"5"},"items":[{"metadata":3},'
        b'{"metadata":{"resourceVersion":"4","uid":"u"}}]}'
    )
    bad, good = page.items or []
    with pytest.raises(UndecodableError):
        decode_item(bad)
    assert decode_item(good)[0] == 4
