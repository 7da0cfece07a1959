"""The watch and the stream: order, duplicates, cuts, a slow bus, and a stop."""

from __future__ import annotations

import asyncio
import json
import time
from pathlib import Path

import pytest
from broker import wait_until
from docker_collector.watch_run import LEAKED_SOCKETS, WatchRun, docker_body
from fake_engine import FakeEngine, message

from sematext_agent.docker_collector import reader

pytestmark = LEAKED_SOCKETS


async def test_the_first_run_drops_events_from_before_its_start(engine: FakeEngine) -> None:
    engine.emit("start")
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.emit("die", exitCode="3")
        await run.until_exactly("die")
    assert docker_body(run.events[0]).attributes == {
        "image": "nginx",
        "name": "web",
        "exitCode": "3",
    }
    assert run.cursor is not None


async def test_a_restarted_collector_emits_the_events_it_missed_once(
    engine: FakeEngine,
) -> None:
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_exactly("create")
    engine.emit("start")
    engine.emit("die", exitCode="0")
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_exactly("start", "die")


async def test_an_event_older_than_the_cursor_is_not_skipped(
    engine: FakeEngine,
) -> None:
    now = time.time_ns()
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("create", moment=now + 10**9)
        await before.until_exactly("create")
    engine.emit("start", moment=now)
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_exactly("start")


async def test_an_event_between_the_history_and_the_stream_is_emitted(
    engine: FakeEngine,
) -> None:
    engine.on_follow = lambda: engine.emit("start")
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        await run.until_exactly("start")


async def test_a_cut_stream_is_opened_again_without_loss(engine: FakeEngine) -> None:
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        for cut in range(3):
            engine.emit("start", f"a{cut}")
            engine.cut()
            engine.emit("start", f"b{cut}")
            await wait_until(lambda: bool(engine.streams))
        await run.until_exactly(*["start"] * 6)
    ids = [docker_body(event).actor_id for event in run.events]
    assert ids == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_an_orderly_end_of_the_stream_is_no_gap_and_logs_nothing(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.emit("start")
        await run.until_exactly("start")
        for writer in engine.streams:
            writer.write(b"0\r\n\r\n")
        engine.streams.clear()
        await run.connected(engine)
        engine.emit("stop")
        await run.until_exactly("start", "stop")
    assert [r.message for r in caplog.records if "connected" in r.message] == [
        f"connected to the Docker Engine 20.10.0, API 1.41, at {engine.address}"
    ]


async def test_the_stream_is_read_while_the_bus_is_away(engine: FakeEngine) -> None:
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        run.bus_is_available.clear()
        for number in range(3000):
            engine.emit("start", f"x{number}")
        (stream,) = engine.streams
        await stream.drain()
        await wait_until(lambda: run.health.report().figures["backlog_messages"] >= 2700)
        transport: asyncio.WriteTransport = stream.transport
        assert transport.get_write_buffer_size() == 0
        run.bus_is_available.set()
        await run.until_exactly(*["start"] * 3000)


async def test_an_undecodable_or_huge_message_costs_no_other_message(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "LINE_BYTES_MAX", 70_000)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.send(b"not json\n" + b'{"Type":1}\n')
        engine.send(b"x" * 200_000)
        engine.send(b"x\n" + message("container", "start", "c1", {"name": "w", "image": "i"}))
        engine.send(b"\n")
        await wait_until(lambda: "start" in run.actions())
        assert set(run.actions()) == {"start", "gap: overflow"}


async def test_a_stop_emits_the_buffered_events_first(engine: FakeEngine) -> None:
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        run.bus_is_available.clear()
        for number in range(1000):
            engine.emit("start", f"x{number}")
        await wait_until(lambda: run.health.report().figures["backlog_messages"] >= 700)
        run.stopping.set()
        await asyncio.sleep(0.05)
        run.bus_is_available.set()
    assert len(run.events) == 1000
    async with WatchRun(engine.address, run.cursor) as after:
        await after.connected(engine)
        await after.until_exactly()


def test_the_fake_engine_has_the_form_of_recorded_messages() -> None:
    """The fake's lines have the form of the recorded ones."""
    recorded = json.loads(
        (Path(__file__).parents[1] / "fixtures/engine-29.jsonl").read_text().splitlines()[0]
    )
    assert json.loads(message("image", "tag", "i", {"name": "n"})).keys() == recorded.keys()
