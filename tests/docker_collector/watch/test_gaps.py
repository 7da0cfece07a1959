"""The watch and gaps: what the engine forgot, restarted over or dropped, and audits."""

from __future__ import annotations

import asyncio
import time

import pytest
from broker import wait_until
from docker_collector.watch_run import LEAKED_SOCKETS, WatchRun, docker_body, name_event
from fake_engine import FakeEngine, iso

from sematext_agent.docker_collector import buffer, connection
from sematext_agent.shared.events import Gap

pytestmark = LEAKED_SOCKETS


async def test_more_events_than_the_engine_remembers_are_a_gap(engine: FakeEngine) -> None:
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_exactly("create")
    for number in range(300):
        engine.emit("exec_start: sh", f"x{number}", execID="e")
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_count(257)
    assert after.actions()[0] == "gap: overflow"
    gap = after.events[0].body
    assert isinstance(gap, Gap)
    assert gap.since == before.events[0].time
    assert gap.until == after.events[1].time
    assert docker_body(after.events[1]).actor_id == "x44"


async def test_as_many_events_as_the_engine_remembers_are_no_gap(engine: FakeEngine) -> None:
    """Exactly as many as the engine remembers minus one: the last known event is still there."""
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_exactly("create")
    for number in range(255):
        engine.emit("start", f"x{number}")
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_exactly(*["start"] * 255)


async def test_an_engine_restart_is_a_gap_followed_by_synthetic_events(
    engine: FakeEngine,
) -> None:
    engine.run("ended", {"tier": "front"})
    engine.run("stays")
    engine.run("gone")
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        await wait_until(lambda: run.cursor is not None)
        engine.emit("top", "stays")
        await run.until_exactly("top")
        end = time.time_ns()
        engine.run("ended", {"tier": "front"}, Status="exited", ExitCode=137, FinishedAt=iso(end))
        del engine.containers["gone"]
        engine.run("new")
        engine.restart()
        await run.until_count(7)
        assert sorted(run.actions()[1:]) == [
            "gap: engine_restarted",
            "synthetic create",
            "synthetic destroy",
            "synthetic die",
            "synthetic die",
            "synthetic start",
        ]
    died = {
        docker_body(event).actor_id: event
        for event in run.events
        if name_event(event) == "synthetic die"
    }
    assert died["ended"].time == iso(end)
    assert docker_body(died["ended"]).attributes["exitCode"] == "137"
    assert docker_body(died["ended"]).labels == {"tier": "front"}
    assert "exitCode" not in docker_body(died["gone"]).attributes
    assert died.keys() == {"ended", "gone"}


async def test_a_gap_is_emitted_once_while_the_history_stays_empty(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.02)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.emit("create", "c2")
        engine.emit("destroy", "c2")
        await run.until_exactly("create", "destroy")
        engine.restart()
        await run.until_exactly("create", "destroy", "gap: engine_restarted")
    async with WatchRun(engine.address, run.cursor) as again:
        await again.connected(engine)
        await again.until_exactly()


async def test_a_gap_whose_collector_was_killed_is_reconciled_by_the_next_run(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run("c1")
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_exactly("top")
    engine.containers["c1"]["State"] |= {
        "Status": "exited",
        "ExitCode": 1,
        "FinishedAt": iso(time.time_ns()),
    }
    engine.restart()
    monkeypatch.setattr(connection, "SNAPSHOT_DELAY_SECONDS", 3600)
    async with WatchRun(engine.address, before.cursor) as first:
        await first.until_exactly("gap: engine_restarted")
        await wait_until(lambda: b'"unreconciled":true' in (first.cursor or b""))
        await first.kill()
    monkeypatch.setattr(connection, "SNAPSHOT_DELAY_SECONDS", 0.01)
    async with WatchRun(engine.address, first.cursor) as after:
        await after.until_exactly("synthetic die")


async def test_an_audit_finds_an_event_that_a_silent_stream_dropped(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.05)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        silent = set(engine.streams)
        engine.is_silent = True
        engine.emit("die", moment=time.time_ns() - 5 * 10**9, exitCode="1")
        await run.until_exactly("die")
        engine.is_silent = False
        # The stream that brought nothing is replaced.
        await wait_until(lambda: bool(engine.streams) and not engine.streams & silent)
        engine.emit("destroy")
        await run.until_exactly("die", "destroy")


async def test_an_audit_that_finds_more_dropped_than_the_history_holds_is_a_gap(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream dropped more than the engine remembers, and then went on."""
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.is_silent = True
        for number in range(300):
            engine.emit("start", f"x{number}")
        engine.is_silent = False
        engine.emit("stop", "x0")
        await run.until_exactly("stop")
        monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.01)
        engine.cut()
        await run.until_count(257)
    assert run.actions()[:3] == ["stop", "gap: overflow", "start"]
    gap = run.events[1].body
    assert isinstance(gap, Gap)
    assert gap.since <= gap.until


async def test_an_audit_of_a_healthy_stream_emits_no_duplicates_and_keeps_the_stream(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.01)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        (stream,) = engine.streams
        for number in range(200):
            engine.emit("start", f"x{number}")
            await asyncio.sleep(0.001)
        await run.until_exactly(*["start"] * 200)
        assert engine.streams == {stream}


async def test_events_that_do_not_fit_into_the_buffer_are_a_gap_with_their_count(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(buffer, "EVENTS_MAX", 100)
    monkeypatch.setattr(buffer, "_BATCH_EVENTS_MAX", 1)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        run.bus_is_available.clear()
        for number in range(500):
            engine.emit("start", f"x{number}")
        (stream,) = engine.streams
        await stream.drain()
        await wait_until(lambda: run.health.report().figures["backlog_messages"] >= 99)
        await asyncio.sleep(0.1)
        run.bus_is_available.set()
        await wait_until(lambda: "gap: overflow" in run.actions())
        engine.emit("stop", "x0")
        await wait_until(lambda: "stop" in run.actions())
    kept = run.actions().count("start")
    gaps = [event.body for event in run.events if isinstance(event.body, Gap)]
    assert sum(gap.lost or 0 for gap in gaps) == 500 - kept
    assert kept >= 100
