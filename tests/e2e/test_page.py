"""The live page in a real Chromium, over the real parts: what a new user sees and does."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import docker
import pytest
from broker import NatsServer, free_port, wait_for_port, wait_for_streams
from browser import CHROMIUM, DRIVER, Browser, Keys, chromium
from console_page import container_event
from console_page import publish_events as publish_events

from sematext_agent.shared import bus
from sematext_agent.shared.events import Event, Gap, encode, format_rfc3339
from sematext_agent.shared.settings import ServiceSettings
from sematext_agent.shared.subjects import (
    DEAD_REASON_HEADER,
    DEAD_STATUS_HEADER,
    dead_subject,
    subject_of,
)

SOCKET = Path("/var/run/docker.sock")
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None or DRIVER is None, reason="no chromium with its driver on this machine"
    ),
]
SCRIPT = "<img src=x onerror=\"document.title='taken'\"><script>document.title='taken'</script>"


class Agent:
    """A broker, a forwarder that runs dry, the page, and the Docker collector for a real engine."""

    def __init__(self, directory: Path) -> None:
        self.broker = NatsServer(directory)
        self.broker.start()
        self.printed = directory / "documents"
        self.port = free_port()
        environ = os.environ | {
            "NATS_URL": self.broker.url,
            "HOSTNAME_ALIAS": "web-01",
            "INFRA_TOKEN": "",
            "CONSOLE_PORT": str(self.port),
            "CONSOLE_REPLAY_ENABLED": "true",
            "TZ": "UTC",
        }
        names = ["forwarder", "console"] + ["docker_collector"] * SOCKET.exists()
        with self.printed.open("wb") as out, (directory / "log").open("wb") as log:
            self._processes = [
                subprocess.Popen(
                    [sys.executable, "-m", f"sematext_agent.{name}"],
                    env=environ,
                    stdout=out,
                    stderr=log,
                )
                for name in names
            ]
        wait_for_port(self.port, seconds=30)

    def publish(self, *events: Event) -> None:
        """Publish the events as a collector does."""
        asyncio.run(self._publish(events))

    async def _publish(self, events: tuple[Event, ...]) -> None:
        connection = await bus.connect(ServiceSettings(nats_url=(self.broker.url,)), "test")
        await wait_for_streams(connection)
        await publish_events(connection, *events)
        await connection.close()

    async def dead_letter(self, event: Event) -> None:
        """Store a dead letter as the forwarder does."""
        connection = await bus.connect(ServiceSettings(nats_url=(self.broker.url,)), "test")
        headers = {DEAD_REASON_HEADER: "tags must be a list", DEAD_STATUS_HEADER: "400"}
        await connection.publish(dead_subject(subject_of(event)), encode(event), event.id, headers)
        await connection.close()

    def stop(self) -> None:
        for process in self._processes:
            process.kill()
            process.wait()
        self.broker.stop()


@pytest.fixture(scope="module")
def agent(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    running = Agent(tmp_path_factory.mktemp("agent"))
    running.publish(
        *(container_event(f"shop-{number}") for number in range(5)),
        container_event("payments", "die", attributes={"exitCode": "1"}),
        container_event(SCRIPT),
    )
    yield running
    running.stop()


@pytest.fixture(scope="module")
def opened(agent: Agent) -> Iterator[Browser]:
    with chromium(f"http://127.0.0.1:{agent.port}/") as browser:
        yield browser


@pytest.fixture
def page(opened: Browser) -> Browser:
    """The page as first opened, in a wide and light window, with an empty console."""
    opened.resize(1280, 860)
    opened.prefer("light")
    opened.open()
    opened.log_entries()
    return opened


def has(page: Browser, *words: str) -> bool:
    """Return whether a row holds all the words."""
    return any(all(word in text for word in words) for text in page.texts("#rows li"))


@pytest.mark.skipif(not SOCKET.exists(), reason="no Docker Engine on this machine")
def test_a_container_starts_and_its_row_appears(agent: Agent, page: Browser) -> None:
    client = docker.from_env()
    name = f"e2e-page-{os.getpid()}"
    container = client.containers.create("nats:2.15-alpine", name=name)
    try:
        container.start()
        page.until(lambda: has(page, "docker", f"container {name} start"))
        assert page.text("#delivery div:last-child dd") == "3 of 3"
    finally:
        container.remove(force=True)
        client.close()


def test_an_opened_event_shows_its_document_exactly(agent: Agent, page: Browser) -> None:
    page.type("#q", "payments")
    page.until(
        lambda: page.texts("#rows .text") == ["container payments die (image nginx, exit code 1)"]
    )
    page.find("#rows a").click()
    page.until(lambda: page.texts("#document"))
    assert "event=" in page.query
    assert "attributes.exitCode1" in "".join(page.texts("#details .fields *"))
    shown = json.loads(page.text("#document"))
    printed = map(json.loads, agent.printed.read_text().splitlines())
    assert shown in list(printed)
    page.open("?" + page.query)  # the address alone leads there again
    page.until(lambda: page.texts("#document"))


def test_filters_stand_in_the_address(page: Browser) -> None:
    page.type("#q", "shop -shop-3")
    page.until(lambda: page.query == "q=shop+-shop-3")
    page.until(lambda: len(page.texts("#rows li")) == 4)
    page.open("?" + page.query)
    assert page.find("#q").get_attribute("value") == "shop -shop-3"
    page.until(lambda: len(page.texts("#rows li")) == 4)
    page.find("#clear").click()
    page.until(lambda: page.query == "")
    page.until(lambda: page.find("input[value=error]")).click()
    page.until(lambda: page.query == "severity=error")
    page.until(lambda: set(page.texts("#rows .severity")) == {"error"})
    page.driver.back()
    page.until(lambda: page.query == "" and len(page.texts("#rows li")) > 1)
    assert not page.find("input[value=error]").is_selected()
    page.driver.get(page.driver.current_url + "?source=nothing")
    page.until(lambda: "source=nothing: choose among" in page.text("#banner"))
    page.log_entries()


def test_text_of_an_event_is_never_markup(page: Browser) -> None:
    page.type("#q", "onerror")
    page.until(lambda: page.texts("#rows .text") == [f"container {SCRIPT} start (image nginx)"])
    page.find("#rows a").click()
    page.until(lambda: SCRIPT in "".join(page.texts("#details dd")))
    assert (
        page.script("return document.querySelectorAll('main img, dialog img, main script').length")
        == 0
    )
    assert page.driver.title != "taken"
    # Its security policy keeps even the page itself from running inline code.
    page.script("document.body.setAttribute('onclick', 'document.title=\"taken\"')")
    page.script("document.body.click()")
    assert page.driver.title != "taken"
    assert any("Content Security Policy" in text for text in page.log_entries())


def test_a_gap_is_marked_where_it_happened(agent: Agent, page: Browser) -> None:
    now = time.time_ns()
    gap = Gap(
        source="docker",
        reason="engine_restarted",
        since=format_rfc3339(now - 600 * 10**9),
        until=format_rfc3339(now - 300 * 10**9),
        detail="the engine forgot",
    )
    agent.publish(container_event(body=gap, id="gap"))
    page.until(lambda: has(page, "GAP in docker", "the engine forgot"))
    band = page.until(
        lambda: page.script(
            "const r = document.querySelector('#timeline .gap');"
            "return r && +r.getAttribute('width')"
        )
    )
    lane = page.script(
        "const { x1, x2 } = document.querySelector('#timeline .lane');"
        "return x2.baseVal.value - x1.baseVal.value"
    )
    assert band == pytest.approx(lane / 12, rel=0.05)  # five minutes of sixty
    assert "gap" in page.texts("#timeline .gap-mark")


def test_it_can_be_read_in_the_dark_and_on_a_phone(page: Browser) -> None:
    ground = "return getComputedStyle(document.body).backgroundColor"
    light = page.script(ground)
    page.prefer("dark")
    assert page.script(ground) != light
    for view in ("", "?view=dead", "?view=health"):
        page.resize(360, 740, is_phone=True)
        page.open(view)
        assert page.script("return document.documentElement.scrollWidth") == 360
    assert page.log_entries() == []


def test_it_can_be_used_with_the_keyboard_alone(page: Browser) -> None:
    focus = "return document.activeElement.id || document.activeElement.tagName"
    page.press("/")
    assert page.script(focus) == "q"
    page.press("shop-2")
    page.until(lambda: len(page.texts("#rows li")) == 1)
    for _ in range(30):
        page.press(Keys.TAB)
        if page.script("return document.activeElement.matches('#rows a')"):
            break
    page.press(Keys.ENTER)
    page.until(lambda: page.texts("#document"))
    assert page.script("return document.querySelector('#details').contains(document.activeElement)")
    page.press(Keys.ESCAPE)
    page.until(lambda: "event=" not in page.query)
    assert page.script("return document.activeElement.matches('#rows a')")
    page.script("document.querySelector('#timeline').focus()")
    page.press(Keys.HOME)
    description = page.find("#timeline").get_attribute("aria-valuetext")
    assert str(description).endswith(": nothing")
    page.press(Keys.ENTER)
    page.until(lambda: "since=" in page.query and "until=" in page.query)
    page.until(lambda: page.find("#window").is_displayed())
    page.until(lambda: page.texts("#rows li") == [])


def test_every_view_passes_the_accessibility_rules_of_axe(agent: Agent, page: Browser) -> None:
    asyncio.run(agent.dead_letter(container_event("refused")))
    views = [(view, "light") for view in ("?q=shop-1", "?view=health", "?view=dead", "?event=1")]
    for view, scheme in [*views, ("?q=shop-1", "dark")]:
        page.prefer(scheme)
        page.open(view)
        page.until(lambda: page.texts("#services li"))
        assert page.violations() == [], (scheme, view)


def test_a_dead_letter_is_listed_and_replayed(agent: Agent, page: Browser) -> None:
    page.open("?view=dead")
    page.until(lambda: page.texts("#letters .why"))
    assert "rejected with 400: tags must be a list" in page.text("#letters .why")
    page.find("#letters button").click()
    page.until(lambda: page.text("#announcement") == "1 event replayed.")
    page.until(lambda: page.text("#dead-title") == "No dead letters")
    page.open()
    page.until(lambda: has(page, "container refused start"))


def test_ten_thousand_events_are_sampled_and_leave_the_browser_responsive(
    agent: Agent, page: Browser
) -> None:
    agent.publish(*(container_event(f"flood-{number}") for number in range(10_000)))
    page.until(lambda: "A sample:" in page.text("#sampled"))
    counted = "return parseInt(document.querySelector('#counted').textContent.replace(',', ''))"
    page.until(lambda: page.script(counted) >= 10_000, seconds=30)
    assert 0 < len(page.texts("#rows li")) <= 500
    started = time.monotonic()
    page.script("return document.querySelectorAll('*').length")
    assert time.monotonic() - started < 2, "the browser has no time left"
    assert page.log_entries() == []


def test_a_broker_that_is_away_and_back_needs_no_reload(agent: Agent, page: Browser) -> None:
    agent.broker.signal(signal.SIGKILL)
    page.until(lambda: "The broker is away" in page.text("#banner"))
    assert page.text("#link") == "the broker is away"
    agent.broker.start()
    page.until(lambda: page.text("#link") == "live", seconds=30)
    agent.publish(container_event("after-the-restart"))
    page.until(lambda: has(page, "after-the-restart"), seconds=30)
    assert not page.find("#banner").is_displayed()
