"""What the page's service answers, to whom, and what it refuses."""

from __future__ import annotations

import asyncio
import signal
from typing import Any

import msgspec
import pytest
from broker import NatsServer, eventually, free_port
from console_page import Open, an_event, tell

from sematext_agent.console import live, lookout
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


async def bury(bus: Bus, name: str) -> int:
    """Stores a dead letter as the forwarder does; returns its number."""
    event = an_event(name)
    headers = {
        DEAD_REASON_HEADER: "bad type",
        DEAD_STATUS_HEADER: "400",
        DEAD_SEQUENCE_HEADER: "7",
        DEAD_TIME_HEADER: "2026-11-23T15:04:05.000000000Z",
    }
    subject = dead_subject(subject_of(event))
    return (await bus.publish(subject, encode(event), event.id, headers)).seq


async def first(told: Any, name: str = "start") -> Any:
    """The data of the first event of that name; the stream stays open."""
    async with asyncio.timeout(15):
        async for event, data in told:
            if event == name:
                return data
    raise AssertionError(f"ended without {name}")


async def test_the_page_and_all_it_loads_come_from_here(open_page: Open) -> None:
    page = await open_page()
    status, text, headers = await page.ask("/")
    assert (status, headers["content-type"]) == (200, "text/html; charset=utf-8")
    assert "http://" not in text + (await page.ask("/console.js"))[1]
    assert "https://" not in text
    for name in ("console.css", "console.js", "dom.js", "icon.svg"):
        assert (await page.ask(f"/{name}"))[0] == 200
    policy = headers["content-security-policy"]
    assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self';")
    assert "unsafe" not in policy
    assert headers["x-content-type-options"] == "nosniff"
    assert (await page.ask("/docs"))[0] == (await page.ask("/openapi.json"))[0] == 404


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8676", "127.0.0.1.evil.example", ""]
)
async def test_a_name_that_leads_here_by_rebinding_is_not_answered(
    open_page: Open, host: str
) -> None:
    page = await open_page()
    for path in ("/", "/rows", "/live", "/dead"):
        status, text, _ = await page.ask(path, Host=host)
        assert (status, "CONSOLE_ALLOWED_HOSTS" in text) == (421, True)


async def test_the_loopback_and_the_names_of_the_settings_are_answered(open_page: Open) -> None:
    page = await open_page(console_allowed_hosts=("Events.example",))
    for host in (
        "localhost",
        "127.0.0.1:8676",
        "[::1]:8676",
        "events.example",
        "EVENTS.example:80",
    ):
        assert (await page.ask("/", Host=host))[0] == 200


async def test_an_open_page_is_told_what_there_is_and_what_comes(
    open_page: Open, streams: Bus
) -> None:
    await tell(streams, an_event("early"))

    async def answer(message: Any) -> None:
        await streams.send(message.reply, msgspec.json.encode(REPORT))

    await streams.subscribe(STATUS_SUBJECT, answer)
    page = await open_page()
    told = page.live()
    start = await first(told)
    assert [row["text"] for row in start["rows"]] == ["container early start (image nginx)"]
    assert [report["service"] for report in start["overview"]["services"]] == ["forwarder"]
    assert start["overview"]["flow"]["messages"] == 1
    assert start["replay"] is False
    await tell(streams, an_event("late"))
    tick = await first(told, "tick")
    while not tick.get("came"):
        tick = await first(told, "tick")
    assert [row["text"] for row in tick["rows"]] == ["container late start (image nginx)"]
    await told.aclose()


async def test_filters_are_kept_to_live_and_a_flood_is_sampled(
    open_page: Open, streams: Bus
) -> None:
    await tell(streams, an_event("early"))
    page = await open_page()
    told = page.live("q=-noise")
    await first(told)
    await tell(streams, *(an_event(f"web-{number}") for number in range(3000)), an_event("noise"))
    came = matching = shown = 0
    async for name, tick in told:
        assert name == "tick"
        came += tick.get("came", 0)
        matching += tick.get("matching", 0)
        shown += len(tick.get("rows", ()))
        assert len(tick.get("rows", ())) <= live.ROWS_PER_TICK_MAX
        if came == 3001 and "timeline" in tick:
            break
    assert matching == 3000
    assert shown < 300
    await told.aclose()


async def test_nobody_looks_and_nothing_is_followed_or_kept(
    open_page: Open, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookout, "LINGER_SECONDS", 0.2)
    await tell(streams, an_event("early"))
    page = await open_page()
    await page.ask("/")

    async def consumers() -> int:
        return int((await streams.request_api("STREAM.INFO.EVENTS"))["state"]["consumer_count"])

    def figure(name: str) -> float:
        return page.health.report().figures[name]

    assert await consumers() == 0
    told = page.live()
    await first(told)
    assert (figure("pages_open"), figure("events_kept")) == (1, 1)
    assert await consumers() == 1
    await told.aclose()
    await eventually(lambda: figure("pages_open") == 0)
    await eventually(lambda: figure("events_kept") == 0)


async def test_so_many_may_look_and_no_more(
    open_page: Open, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.web.VIEWERS_MAX", 1)
    page = await open_page()
    told = page.live()
    await first(told)
    status, answer, _ = await page.ask("/live")
    assert (status, answer) == (503, {"problem": "1 pages are open already; close one of them."})
    await told.aclose()


async def test_a_stop_does_not_wait_for_open_pages(open_page: Open, streams: Bus) -> None:
    page = await open_page()
    told = page.live()
    await first(told)
    page.stopping.set()
    async with asyncio.timeout(5):
        async for _ in told:
            pass


async def test_another_stream_is_shown_from_its_beginning(open_page: Open, streams: Bus) -> None:
    """Such as after the broker's disk was replaced: numbers begin at 1 again."""
    await tell(streams, an_event("old-1"), an_event("old-2"))
    page = await open_page()
    told = page.live()
    await first(told)
    await streams.manager.delete_stream("EVENTS")
    await streams.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await tell(streams, an_event("new"))
    start = await first(told)
    assert [row["text"].split()[1] for row in start["rows"]] == ["new"]
    await told.aclose()


async def test_older_rows_and_a_filter_that_is_none(open_page: Open, streams: Bus) -> None:
    await tell(streams, *(an_event(f"web-{number}") for number in range(5)))
    page = await open_page()
    told = page.live()
    await first(told)
    _, answer, _ = await page.ask("/rows?before=3&q=web")
    assert [row["number"] for row in answer["rows"]] == [2, 1]
    for path in ("/rows?source=x", "/live?source=x"):
        status, answer, _ = await page.ask(path)
        assert (status, answer["problem"][:9]) == (400, "source=x:")
    await told.aclose()


async def test_an_event_is_opened_also_without_a_forwarder(
    open_page: Open, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.opened.DOCUMENT_SECONDS", 0.2)
    event = an_event("web")
    number = await tell(streams, event)
    await streams.publish("events.x.y.z.a", b"\xff<b>", "1")
    page = await open_page()
    status, found, _ = await page.ask(f"/events/{number}")
    assert (status, found["subject"]) == (200, subject_of(event))
    assert found["event"]["body"]["attributes"]["name"] == "web"
    assert found["document"] == ""
    assert found["problem"].startswith("The forwarder does not answer")
    _, found, _ = await page.ask(f"/events/{number + 1}")
    assert (found["event"], found["text"]) == (None, "�<b>")
    status, found, _ = await page.ask("/events/99")
    assert (status, found["problem"]) == (404, "The stream no longer holds this event.")


async def test_dead_letters_are_listed_with_their_reason_newest_first(
    open_page: Open, streams: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.opened.LETTERS_MAX", 2)
    page = await open_page()
    assert (await page.ask("/dead"))[1] == {"letters": [], "count": 0, "older": 0}
    for name in "abc":
        await bury(streams, name)
    _, answer, _ = await page.ask("/dead")
    assert [letter["number"] for letter in answer["letters"]] == [3, 2]
    assert answer["letters"][0]["status"] == "400"
    assert answer["letters"][0]["reason"] == "bad type"
    assert answer["letters"][0]["row"]["text"] == "container c start (image nginx)"
    assert (answer["count"], answer["older"]) == (3, 2)
    _, answer, _ = await page.ask("/dead?before=2")
    assert [letter["number"] for letter in answer["letters"]] == [1]
    assert answer["older"] == 0
    _, letter, _ = await page.ask("/dead/1")
    assert letter["event"]["body"]["attributes"]["name"] == "a"
    assert (await page.ask("/dead/9"))[0] == 404


async def replay(page: Any, *numbers: int, **headers: str) -> tuple[int, Any]:
    own = {"Origin": f"http://127.0.0.1:{page.port}"} | headers
    status, answer, _ = await page.ask("/dead/replay", "POST", list(numbers), **own)
    return status, answer


async def messages(bus: Bus, stream: str) -> int:
    return int((await bus.request_api(f"STREAM.INFO.{stream}"))["state"]["messages"])


async def test_a_replay_takes_the_setting(open_page: Open, streams: Bus) -> None:
    number = await bury(streams, "a")
    page = await open_page()
    status, answer = await replay(page, number)
    assert (status, "CONSOLE_REPLAY_ENABLED=true" in answer["problem"]) == (403, True)
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (0, 1)


async def test_a_replay_puts_dead_letters_back_on_their_way(open_page: Open, streams: Bus) -> None:
    numbers = [await bury(streams, name) for name in "ab"]
    page = await open_page(console_replay_enabled=True)
    assert await replay(page, *numbers, 99) == (200, {"sent": 2})
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (2, 0)


@pytest.mark.parametrize("origin", ["", "null", "http://evil.example", "https://127.0.0.1:1"])
async def test_no_other_page_can_replay(open_page: Open, streams: Bus, origin: str) -> None:
    number = await bury(streams, "a")
    page = await open_page(console_replay_enabled=True)
    status, _ = await replay(page, number, Origin=origin)
    assert status == 403
    assert (await page.ask("/dead/replay"))[0] == 422  # a GET is only a number that is none
    assert (await messages(streams, "EVENTS"), await messages(streams, "DEAD")) == (0, 1)


async def test_a_broker_that_is_away_is_said_and_the_page_goes_on(
    open_page: Open, streams: Bus, nats_server: NatsServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sematext_agent.console.web.ANSWER_SECONDS_MAX", 0.5)
    await tell(streams, an_event("early"))
    page = await open_page()
    told = page.live()
    await first(told)
    nats_server.signal(signal.SIGKILL)
    async for _, tick in told:
        if tick.get("overview", {}).get("connected") is False:
            break
    status, answer, _ = await page.ask("/dead")
    assert (status, answer["problem"][:27]) == (503, "The broker cannot say it no")
    nats_server.start()
    await eventually(lambda: streams.is_connected)
    await tell(streams, an_event("late"))
    async for _, tick in told:
        if tick.get("came"):
            break
    assert [row["text"].split()[1] for row in tick["rows"]] == ["late"]
    await told.aclose()


async def test_a_port_that_is_taken_is_waited_for(
    open_page: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page's port is no reason to end, or `agentctl up` would end with it."""
    port = free_port()
    taken = listener.listen("127.0.0.1", port)
    page = await open_page(console_port=port)
    await eventually(lambda: "page" in page.health.report().conditions)
    condition = page.health.report().conditions["page"]
    assert (condition.ok, "set CONSOLE_PORT to another" in condition.detail) == (False, True)
    taken.close()
    await eventually(lambda: page.health.report().conditions["page"].ok)
    assert (await page.ask("/"))[0] == 200
