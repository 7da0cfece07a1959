"""The runner of a service, as a process that collects numbers: start, drain, faults, health."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
import urllib.error
import urllib.request
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from broker import NatsServer, wait_until
from nats.js.api import DiscardPolicy

from sematext_agent.shared.bus import Bus, StreamConfig
from sematext_agent.shared.events import DockerEvent, Gap, decode
from sematext_agent.shared.subjects import CURSORS_BUCKET, STATUS_SUBJECT

COUNTING = Path(__file__).with_name("counting.py")


class CountingProcess:
    """The counting collector as a process, and its log so far."""

    def __init__(self, process: Process) -> None:
        self.process = process
        self.lines: list[str] = []
        self._reading = asyncio.create_task(self._read())

    async def _read(self) -> None:
        assert self.process.stderr is not None
        async for line in self.process.stderr:
            self.lines.append(line.decode())

    @property
    def log(self) -> str:
        return "".join(self.lines)

    async def end(self, number: signal.Signals | None = None) -> int:
        """Wait for the end of the process, after the signal `number`; return its exit status."""
        if number is not None:
            self.process.send_signal(number)
        async with asyncio.timeout(15):
            status = await self.process.wait()
            await self._reading
        return status

    async def page(self, path: str) -> tuple[int, str]:
        """Return the status and the text of a page of its health server."""
        await wait_until(lambda: "port" in self.log)
        match = re.search(r"port (\d+)", self.log)
        assert match is not None
        return await asyncio.to_thread(get, f"http://127.0.0.1:{match[1]}{path}")


def get(url: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(url, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()


@pytest.fixture
async def start(nats_server: NatsServer) -> AsyncIterator[Any]:
    """Yield a function that starts counting collectors; those left running end with the test."""
    started: list[CountingProcess] = []

    async def start_one(**environ: str) -> CountingProcess:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            COUNTING,
            stderr=PIPE,
            env=os.environ | {"NATS_URL": nats_server.url, "HOSTNAME_ALIAS": "host"} | environ,
        )
        started.append(CountingProcess(process))
        return started[-1]

    yield start_one
    for running in started:
        if running.process.returncode is None:
            await running.end(signal.SIGKILL)


@pytest.fixture
async def streams(connection: Bus) -> Bus:
    await connection.manager.add_stream(StreamConfig(name="EVENTS", subjects=["events.>"]))
    await connection.manager.create_key_value(bucket=CURSORS_BUCKET)
    return connection


def actor_id(payload: bytes) -> str:
    body = decode(payload).body
    assert isinstance(body, DockerEvent)
    return body.actor_id


async def stored(connection: Bus) -> int:
    return int((await connection.manager.stream_info("EVENTS")).state.messages)


async def until_stored(connection: Bus, count: int) -> None:
    async with asyncio.timeout(15):
        while await stored(connection) < count:
            await asyncio.sleep(0.02)


async def test_sigterm_drains_and_the_next_start_continues_at_the_cursor(
    streams: Bus, start: Any
) -> None:
    first = await start(COUNT="3000")
    await until_stored(streams, 1)
    assert await first.end(signal.SIGTERM) == 0
    assert await streams.get(CURSORS_BUCKET, "counting.host") == b"3000"
    assert await stored(streams) == 3000

    second = await start(COUNT="3500")
    await until_stored(streams, 3500)
    assert await second.end(signal.SIGINT) == 0
    assert await stored(streams) == 3500


async def test_sigkill_neither_loses_nor_duplicates_an_event(streams: Bus, start: Any) -> None:
    first = await start(COUNT="20000")
    await until_stored(streams, 500)
    await first.end(signal.SIGKILL)
    assert await stored(streams) < 20000
    await start(COUNT="20000")
    await until_stored(streams, 20000)
    last = await streams.manager.get_last_msg("EVENTS", "events.docker.host.number.counted")
    assert (last.seq, actor_id(last.data)) == (20000, "19999")


async def test_a_broker_killed_under_load_neither_loses_nor_duplicates_an_event(
    streams: Bus, start: Any, nats_server: NatsServer
) -> None:
    running = await start(COUNT="20000")
    await until_stored(streams, 500)
    nats_server.signal(signal.SIGKILL)
    await asyncio.sleep(0.2)
    nats_server.start()
    await until_stored(streams, 20000)
    assert await running.end(signal.SIGTERM) == 0
    assert await stored(streams) == 20000


async def test_a_full_stream_holds_the_collector_and_is_a_condition_of_health(
    streams: Bus, start: Any
) -> None:
    limited = StreamConfig(
        name="EVENTS", subjects=["events.>"], max_msgs=10, discard=DiscardPolicy.NEW
    )
    await streams.manager.update_stream(limited)
    running = await start(COUNT="20")
    await wait_until(lambda: "maximum messages exceeded" in running.log)
    status, text = await running.page("/readyz")
    assert status == 503
    assert json.loads(text)["conditions"]["stream"]["detail"] == "maximum messages exceeded (503)"
    limited.max_msgs = 100
    await streams.manager.update_stream(limited)
    await until_stored(streams, 20)
    await wait_until(lambda: "accepts events" in running.log)


async def test_an_event_too_large_for_the_stream_becomes_a_gap(streams: Bus, start: Any) -> None:
    await start(COUNT="3", LARGE_AT="1")
    await until_stored(streams, 3)
    message = await streams.manager.get_last_msg("EVENTS", "events.docker.host.gap.too_large")
    gap = decode(message.data).body
    assert isinstance(gap, Gap)
    assert "events.docker.host.number.counted was 300" in gap.detail


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        ({"CRASH_AT": "5"}, "ZeroDivisionError: the source broke"),
        ({"END_AT": "5"}, "the watch of the source ended by itself"),
    ],
)
async def test_a_fault_ends_the_process_with_1_so_that_it_is_restarted(
    streams: Bus, start: Any, environ: dict[str, str], line: str
) -> None:
    running = await start(**environ)
    assert await running.end() == 1
    assert line in running.log


async def test_unusable_settings_end_it_with_2_and_one_line(start: Any) -> None:
    running = await start(COUNT="many")
    assert await running.end() == 2
    expected = "counting: COUNT=many: expected int, got str; set it to a whole number\n"
    assert running.log == expected


async def test_a_port_in_use_ends_it_with_2_and_one_line(
    start: Any, nats_server: NatsServer
) -> None:
    running = await start(API_SERVER_PORT=str(nats_server.port))
    assert await running.end() == 2
    assert "API_SERVER_PORT" in running.log
    assert running.log.count("\n") == 1


async def test_it_says_why_it_waits_for_the_broker_and_stops_meanwhile(
    start: Any, nats_server: NatsServer
) -> None:
    running = await start(NATS_URL="nats://127.0.0.1:1,nats://localhost:1")
    status, _ = await running.page("/readyz")
    assert status == 503
    waiting = "waiting for the broker at nats://127.0.0.1:1, nats://localhost:1: "
    await wait_until(lambda: waiting in running.log)
    assert await running.end(signal.SIGTERM) == 0
    lines = [line.partition(waiting)[2] for line in running.log.splitlines() if waiting in line]
    assert len(lines) == len(set(lines))


async def test_it_stops_at_once_before_the_streams_exist(start: Any) -> None:
    """It has not begun its watch, so there is nothing to drain."""
    running = await start(DRAIN_SECONDS="60")
    await wait_until(lambda: "bus: connected" in running.log)
    assert await running.end(signal.SIGTERM) == 0
    assert "not yet safe" not in running.log


async def test_it_stops_while_the_broker_is_away_and_reads_again_at_the_next_start(
    streams: Bus, start: Any, nats_server: NatsServer
) -> None:
    running = await start(COUNT="20000", DRAIN_SECONDS="200ms")
    await until_stored(streams, 500)
    nats_server.signal(signal.SIGKILL)
    assert await running.end(signal.SIGTERM) == 0
    assert "the next start reads them again" in running.log
    nats_server.start()
    await start(COUNT="20000")
    await until_stored(streams, 20000)


async def test_pages_and_status_show_the_health(
    streams: Bus, start: Any, nats_server: NatsServer
) -> None:
    running = await start(COUNT="7")
    await until_stored(streams, 7)
    assert await running.page("/healthz") == (200, "alive\n")
    status, text = await running.page("/readyz")
    report = json.loads(text)
    assert status == 200
    assert report["conditions"]["source"] == {"ok": True, "detail": "counting"}
    _, metrics = await running.page("/metrics")
    assert 'events_published_total{kind="DockerEvent",service="counting"} 7.0' in metrics
    assert 'sematext_agent_ready{service="counting"} 1.0' in metrics
    answers = await streams.request_all(STATUS_SUBJECT, 0.3)
    assert [json.loads(answer)["service"] for answer in answers] == ["counting"]

    nats_server.signal(signal.SIGKILL)
    async with asyncio.timeout(5):
        while (await running.page("/readyz"))[0] != 503:
            await asyncio.sleep(0.05)
    assert (await running.page("/healthz"))[0] == 200
