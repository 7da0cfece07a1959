"""The answers of the page's service, to whom they go, and the requests that it rejects."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import msgspec
import pytest
from broker import NatsServer, free_port, wait_until
from connection_flood import SilentConnections, get_status
from console_page import OpenPage, PageClient, container_event, publish_events

from sematext_agent.console import live_feed, page_stream
from sematext_agent.shared import listener
from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import encode
from sematext_agent.shared.health import Report
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_SEQUENCE_HEADER,
    DEAD_STATUS_HEADER,
    DEAD_TIME_HEADER,
    STATUS_SUBJECT,
    dead_subject,
    subject_of,
)

REPORT = Report(
    service="forwarder",
    origin="web-01",
    version="1",
    ready=True,
    started=0,
    conditions={},
    figures={},
)


async def store_dead_letter(bus: Bus, name: str) -> int:
    """Store a dead letter as the forwarder does; return its number."""
    event = container_event(name)
    headers = {
        DEAD_REASON_HEADER: "bad type",
        DEAD_STATUS_HEADER: "400",
        DEAD_SEQUENCE_HEADER: "7",
        DEAD_TIME_HEADER: "2026-11-23T15:04:05.000000000Z",
    }
    subject = dead_subject(subject_of(event))
    return (await bus.publish(subject, encode(event), event.id, headers)).seq


async def read_update(updates: Any, name: str = "start") -> Any:
    """Return the data of the next update of that name; the stream stays open."""
    async with asyncio.timeout(15):
        async for event, data in updates:
            if event == name:
                return data
    raise AssertionError(f"ended without {name}")


async def test_the_page_loads_everything_from_its_own_service(open_page: OpenPage) -> None:
    page = await open_page()
    status, text, headers = await page.request("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "http://" not in text + (await page.request("/console.js"))[1]
    assert "https://" not in text
    for name in ("console.css", "console.js", "dom.js", "icon.svg"):
        assert (await page.request(f"/{name}"))[0] == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert (await page.request("/docs"))[0] == (await page.request("/openapi.json"))[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8676", "127.0.0.1.evil.example", ""]
)
async def test_a_request_under_a_foreign_name_is_rejected(open_page: OpenPage, host: str) -> None:
    page = await open_page()
    for path in ("/", "/rows", "/live", "/dead"):
        status, text, _ = await page.request(path, Host=host)
        assert (status, "CONSOLE_ALLOWED_HOSTS" in text) == (421, True)


async def test_the_names_of_the_loopback_and_of_the_settings_are_accepted(
    open_page: OpenPage,
) -> None:
    page = await open_page(console_allowed_hosts=("Events.example",))
    for host in (
        "localhost",
        "127.0.0.1:8676",
        "[::1]:8676",
        "events.example",
        "EVENTS.example:80",
    ):
        assert (await page.request("/", Host=host))[0] == 200


async def test_an_open_page_gets_stored_events_and_then_new_ones(
    open_page: OpenPage, streams: Bus
) -> None:
    await publish_events(streams, container_event("early"))

    async def answer(message: Any) -> None:
        await streams.send(message.reply, msgspec.json.encode(REPORT))

    await streams.subscribe(STATUS_SUBJECT, answer)
    page = await open_page()
    updates = page.live()
    start = await read_update(updates)
    assert [row["text"] for row in start["rows"]] == ["container early start (image nginx)"]
    assert [report["service"] for report in start["overview"]["reports"]] == ["forwarder"]
    assert start["overview"]["delivery"]["events"] == 1
    assert start["replay_enabled"] is False
    await publish_events(streams, container_event("late"))
    tick = await read_update(updates, "tick")
    while not tick.get("arrived"):
        tick = await read_update(updates, "tick")
    assert [row["text"] for row in tick["rows"]] == ["container late start (image nginx)"]
    await updates.aclose()


async def test_the_filter_applies_to_new_events_and_a_flood_is_sampled(
    open_page: OpenPage, streams: Bus
) -> None:
    await publish_events(streams, container_event("early"))
    page = await open_page()
    updates = page.live("q=-noise")
    await read_update(updates)
    await publish_events(
        streams,
        *(container_event(f"web-{number}") for number in range(3000)),
        container_event("noise"),
    )
    arrived = matching = shown = 0
    async for name, tick in updates:
        assert name == "tick"
        arrived += tick.get("arrived", 0)
        matching += tick.get("matching", 0)
        shown += len(tick.get("rows", ()))
        assert len(tick.get("rows", ())) <= page_stream.ROWS_PER_TICK_MAX
        if arrived == 3001 and "timeline" in tick:
            break
    assert matching == 3000
    assert shown < 300
    await updates.aclose()


async def test_without_an_open_page_nothing_is_followed_or_kept(
    open_page: OpenPage, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(live_feed, "LINGER_SECONDS", 0.2)
    await publish_events(streams, container_event("early"))
    page = await open_page()
    await page.request("/")

    async def consumers() -> int:
        return int((await streams.request_api("STREAM.INFO.EVENTS"))["state"]["consumer_count"])

    def figure(name: str) -> float:
        return float(page.health.report().figures[name])

    assert await consumers() == 0
    updates = page.live()
    await read_update(updates)
    assert (figure("pages_open"), figure("events_kept")) == (1, 1)
    assert await consumers() == 1
    await updates.aclose()
    await wait_until(lambda: figure("pages_open") == 0)
    await wait_until(lambda: figure("events_kept") == 0)


async def test_the_number_of_open_pages_is_bounded(
    open_page: OpenPage, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.web.VIEWERS_MAX", 1)
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    status, answer, _ = await page.request("/live")
    assert (status, answer) == (503, {"problem": "1 pages are open already; close one of them."})
    await updates.aclose()


async def test_a_stop_does_not_wait_for_open_pages(open_page: OpenPage, streams: Bus) -> None:
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    page.stopping.set()
    async with asyncio.timeout(5):
        async for _ in updates:
            pass


async def test_a_replaced_stream_is_shown_from_its_beginning(
    open_page: OpenPage, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Such as after the broker's disk was replaced: numbers begin at 1 again."""
    monkeypatch.setattr(live_feed, "OVERVIEW_SECONDS", 0.1)
    await publish_events(streams, container_event("old-1"), container_event("old-2"))
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    await streams.manager.delete_stream("EVENTS")
    await streams.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await publish_events(streams, container_event("new"))
    start = await read_update(updates)
    assert [row["text"].split()[1] for row in start["rows"]] == ["new"]
    await updates.aclose()


async def test_older_rows_are_listed_and_an_unusable_filter_is_rejected(
    open_page: OpenPage, streams: Bus
) -> None:
    await publish_events(streams, *(container_event(f"web-{number}") for number in range(5)))
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    _, answer, _ = await page.request("/rows?before=3&q=web")
    assert [row["number"] for row in answer["rows"]] == [2, 1]
    for path in ("/rows?source=x", "/live?source=x"):
        status, answer, _ = await page.request(path)
        assert (status, answer["problem"][:9]) == (400, "source=x:")
    await updates.aclose()


async def test_an_event_has_details_also_without_a_forwarder(
    open_page: OpenPage, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.details.DOCUMENT_SECONDS", 0.2)
    event = container_event("web")
    number = await publish_events(streams, event)
    await streams.publish("events.x.y.z.a", b"\xff<b>", "1")
    page = await open_page()
    status, answer, _ = await page.request(f"/events/{number}")
    assert (status, answer["subject"]) == (200, subject_of(event))
    assert answer["event"]["body"]["attributes"]["name"] == "web"
    assert answer["document"] == ""
    assert answer["problem"].startswith("The forwarder does not answer")
    _, answer, _ = await page.request(f"/events/{number + 1}")
    assert (answer["event"], answer["text"]) == (None, "�<b>")
    status, answer, _ = await page.request("/events/99")
    assert (status, answer["problem"]) == (404, "The stream no longer holds this event.")


async def test_dead_letters_are_listed_with_their_reason_newest_first(
    open_page: OpenPage, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.details.DEAD_LETTERS_MAX", 2)
    page = await open_page()
    assert (await page.request("/dead"))[1] == {"letters": [], "count": 0, "older": 0}
    for name in "abc":
        await store_dead_letter(streams, name)
    _, answer, _ = await page.request("/dead")
    assert [letter["number"] for letter in answer["letters"]] == [3, 2]
    assert answer["letters"][0]["status"] == "400"
    assert answer["letters"][0]["reason"] == "bad type"
    assert answer["letters"][0]["row"]["text"] == "container c start (image nginx)"
    assert (answer["count"], answer["older"]) == (3, 2)
    _, answer, _ = await page.request("/dead?before=2")
    assert [letter["number"] for letter in answer["letters"]] == [1]
    assert answer["older"] == 0
    _, letter, _ = await page.request("/dead/1")
    assert letter["event"]["body"]["attributes"]["name"] == "a"
    assert (await page.request("/dead/9"))[0] == 404


async def replay(page: PageClient, *numbers: int, **headers: str) -> tuple[int, Any]:
    own = {"Origin": f"http://127.0.0.1:{page.port}"} | headers
    status, answer, _ = await page.request("/dead/replay", "POST", list(numbers), **own)
    return status, answer


async def messages(bus: Bus, stream: str) -> int:
    return int((await bus.request_api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def test_a_replay_needs_the_setting(open_page: OpenPage, streams: Bus) -> None:
    number = await store_dead_letter(streams, "a")
    page = await open_page()
    status, answer = await replay(page, number)
    assert (status, "CONSOLE_REPLAY_ENABLED=true" in answer["problem"]) == (403, True)
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (0, 1)


async def test_a_replay_makes_events_of_dead_letters(open_page: OpenPage, streams: Bus) -> None:
    numbers = [await store_dead_letter(streams, name) for name in "ab"]
    page = await open_page(console_replay_enabled=True)
    assert await replay(page, *numbers, 99) == (200, {"replayed": 2})
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (2, 0)


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://127.0.0.1:1"])
async def test_no_other_page_can_replay(open_page: OpenPage, streams: Bus, origin: str) -> None:
    number = await store_dead_letter(streams, "a")
    page = await open_page(console_replay_enabled=True)
    status, _ = await replay(page, number, Origin=origin)
    assert status == 403
    assert (await page.request("/dead/replay"))[
        0
    ] == 422  # as a GET it is a dead letter without a number
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (0, 1)


async def test_the_page_reports_a_broker_that_is_away_and_goes_on_with_it(
    open_page: OpenPage, streams: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.web.ANSWER_SECONDS_MAX", 0.5)
    monkeypatch.setattr(live_feed, "OVERVIEW_SECONDS", 0.1)
    await publish_events(streams, container_event("early"))
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    nats_server.signal(signal.SIGKILL)
    async for _, tick in updates:
        if tick.get("overview", {}).get("connected") is False:
            break
    status, answer, _ = await page.request("/dead")
    assert (status, answer["problem"][:26]) == (503, "The broker does not answer")
    nats_server.start()
    await wait_until(lambda: streams.is_connected)
    await publish_events(streams, container_event("late"))
    async for _, tick in updates:
        if tick.get("arrived"):
            break
    assert [row["text"].split()[1] for row in tick["rows"]] == ["late"]
    await updates.aclose()


async def test_the_page_waits_for_its_port(
    open_page: OpenPage, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A port in use must not end the process, or `agentctl up` would end with it."""
    port = free_port()
    occupant = listener.listen("127.0.0.1", port)
    page = await open_page(console_port=port)
    await wait_until(lambda: "page" in page.health.report().conditions)
    condition = page.health.report().conditions["page"]
    assert (condition.ok, "set CONSOLE_PORT to another" in condition.detail) == (False, True)
    occupant.close()
    await wait_until(lambda: page.health.report().conditions["page"].ok)
    assert (await page.request("/"))[0] == 200


async def test_an_open_page_outlives_a_flood_of_silent_connections(
    open_page: OpenPage, streams: Bus
) -> None:
    page = await open_page()
    updates = page.live()
    await read_update(updates)
    with await asyncio.to_thread(SilentConnections, page.port, 300) as flood:
        assert await asyncio.to_thread(get_status, page.port, "/") == 200
        await read_update(updates, "tick")
        assert flood.open_count <= live_feed.VIEWERS_MAX + listener.CONNECTIONS_MAX
    await updates.aclose()
