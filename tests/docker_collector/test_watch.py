"""The watch against an engine that forgets, refuses, goes silent and cuts its stream."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
import time
from collections.abc import AsyncIterator
from contextlib import aclosing
from pathlib import Path
from typing import Any

import certifi
import pytest
from broker import eventually
from fake_engine import FakeEngine, message

from sematext_agent.docker_collector import backlog, connection
from sematext_agent.docker_collector.settings import DockerSettings
from sematext_agent.docker_collector.watch import watch
from sematext_agent.shared.events import DockerEvent, Event, Gap
from sematext_agent.shared.health import Health
from sematext_agent.shared.service import Runtime

pytestmark = [
    # A request under way when a test ends its engine: the SDK leaves the socket of an attempt that
    # failed to the garbage collector.
    pytest.mark.filterwarnings("ignore::ResourceWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[FakeEngine]:
    fake = FakeEngine()
    await fake.listen(tmp_path / "docker.sock")
    yield fake
    fake.close()


@pytest.fixture(autouse=True)
def _hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection, "SETTLE_SECONDS", 0.01)


class Run:
    """One run of the watch, from its start to its stop, and what it told."""

    def __init__(self, address: str, cursor: bytes | None = None, **settings: Any) -> None:
        self.told: list[Event] = []
        self.cursor = cursor
        self.stopping = asyncio.Event()
        self.health = Health("docker", "web-01")
        self.bus_is_there = asyncio.Event()
        self.bus_is_there.set()
        wanted = DockerSettings(docker_transport=address, hostname_alias="web-01", **settings)
        self._runtime = Runtime(wanted, self.health, None, self.stopping)  # type: ignore[arg-type]

    async def __aenter__(self) -> Run:
        self._task = asyncio.create_task(self._take())
        return self

    async def __aexit__(self, *_: object) -> None:
        self.stopping.set()
        async with asyncio.timeout(10):
            await self._task

    def kill(self) -> None:
        self._task.cancel()

    async def _take(self) -> None:
        async with aclosing(watch(self._runtime, self.cursor)) as observations:
            async for observed in observations:
                await self.bus_is_there.wait()
                if observed.event is not None:
                    self.told.append(observed.event)
                self.cursor = observed.cursor or self.cursor

    async def until_told(self, count: int) -> list[str]:
        await eventually(lambda: len(self.told) >= count, seconds=10)
        return self.actions()

    async def until_settled(self, *actions: str) -> None:
        """Waits until exactly these are told, and what follows them would have been told too."""
        await eventually(lambda: set(self.actions()) >= set(actions), seconds=10)
        await asyncio.sleep(0.1)
        assert self.actions() == list(actions)

    def actions(self) -> list[str]:
        return [what(event) for event in self.told]

    def source(self) -> tuple[bool, str]:
        condition = self.health.report().conditions["source"]
        return condition.ok, condition.detail

    async def connected(self, engine: FakeEngine) -> Run:
        await eventually(lambda: bool(engine.streams), seconds=10)
        return self


def what(event: Event) -> str:
    match event.body:
        case DockerEvent(action=action, synthetic=synthetic):
            return f"synthetic {action}" if synthetic else action
        case Gap(reason=reason):
            return f"gap: {reason}"
    raise AssertionError(event)


def body(event: Event) -> DockerEvent:
    assert isinstance(event.body, DockerEvent)
    return event.body


async def test_the_first_run_begins_with_its_start(engine: FakeEngine) -> None:
    engine.emit("start")
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.emit("die", exitCode="3")
        await run.until_settled("die")
    assert body(run.told[0]).attributes == {"image": "nginx", "name": "web", "exitCode": "3"}
    assert run.cursor is not None


async def test_a_restarted_collector_tells_what_it_missed_and_nothing_twice(
    engine: FakeEngine,
) -> None:
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_settled("create")
    engine.emit("start")
    engine.emit("die", exitCode="0")
    async with Run(engine.address, before.cursor) as after:
        await after.until_settled("start", "die")


async def test_events_out_of_their_times_order_are_not_skipped(engine: FakeEngine) -> None:
    now = time.time_ns()
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("create", moment=now + 10**9)
        await before.until_settled("create")
    engine.emit("start", moment=now)
    async with Run(engine.address, before.cursor) as after:
        await after.until_settled("start")


async def test_what_happens_between_the_first_look_and_the_stream_is_told(
    engine: FakeEngine,
) -> None:
    engine.on_follow = lambda: engine.emit("start")
    async with Run(engine.address) as run:
        await run.connected(engine)
        await run.until_settled("start")


async def test_a_cut_stream_is_opened_again_and_loses_nothing(engine: FakeEngine) -> None:
    async with Run(engine.address) as run:
        await run.connected(engine)
        for cut in range(3):
            engine.emit("start", f"a{cut}")
            engine.cut()
            engine.emit("start", f"b{cut}")
            await eventually(lambda: bool(engine.streams))
        await run.until_settled(*["start"] * 6)
    ids = [body(event).actor_id for event in run.told]
    assert ids == ["a0", "b0", "a1", "b1", "a2", "b2"]


async def test_an_idle_end_of_the_stream_is_no_gap_and_no_news(
    engine: FakeEngine, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.emit("start")
        await run.until_settled("start")
        for writer in engine.streams:
            writer.write(b"0\r\n\r\n")
        engine.streams.clear()
        await run.connected(engine)
        engine.emit("stop")
        await run.until_settled("start", "stop")
    assert [r.message for r in caplog.records if "connected" in r.message] == [
        f"connected to the Docker Engine 20.10.0, API 1.41, at {engine.address}"
    ]


async def test_more_than_the_engine_remembers_is_a_gap(engine: FakeEngine) -> None:
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_settled("create")
    for number in range(300):
        engine.emit("exec_start: sh", f"x{number}", execID="e")
    async with Run(engine.address, before.cursor) as after:
        await after.until_told(257)
    assert after.actions()[0] == "gap: overflow"
    gap = after.told[0].body
    assert isinstance(gap, Gap)
    assert gap.since == before.told[0].time
    assert gap.until == after.told[1].time
    assert body(after.told[1]).actor_id == "x44"


async def test_the_last_256_events_are_no_gap(engine: FakeEngine) -> None:
    """Exactly as many as the engine remembers minus one: the last known event is still there."""
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("create")
        await before.until_settled("create")
    for number in range(255):
        engine.emit("start", f"x{number}")
    async with Run(engine.address, before.cursor) as after:
        await after.until_settled(*["start"] * 255)


async def test_an_engine_restart_is_a_gap_and_what_ended_meanwhile_is_told(
    engine: FakeEngine,
) -> None:
    engine.run("ended", {"tier": "front"})
    engine.run("stays")
    engine.run("gone")
    async with Run(engine.address) as run:
        await run.connected(engine)
        await eventually(lambda: run.cursor is not None)
        engine.emit("top", "stays")
        await run.until_settled("top")
        end = time.time_ns()
        engine.run("ended", {"tier": "front"}, Status="exited", ExitCode=137, FinishedAt=iso(end))
        del engine.containers["gone"]
        engine.run("new")
        engine.restart()
        await run.until_told(7)
        assert sorted(run.actions()[1:]) == [
            "gap: engine_restarted",
            "synthetic create",
            "synthetic destroy",
            "synthetic die",
            "synthetic die",
            "synthetic start",
        ]
    died = {body(event).actor_id: event for event in run.told if what(event) == "synthetic die"}
    assert died["ended"].time == iso(end)
    assert body(died["ended"]).attributes["exitCode"] == "137"
    assert body(died["ended"]).labels == {"tier": "front"}
    assert "exitCode" not in body(died["gone"]).attributes
    assert died.keys() == {"ended", "gone"}


async def test_a_gap_is_told_once_however_long_the_engine_remembers_nothing(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.02)
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.emit("create", "c2")
        engine.emit("destroy", "c2")
        await run.until_settled("create", "destroy")
        engine.restart()
        await run.until_settled("create", "destroy", "gap: engine_restarted")
    async with Run(engine.address, run.cursor) as again:
        await again.connected(engine)
        await again.until_settled()


async def test_a_kill_between_a_gap_and_its_comparison_leaves_the_comparison_to_do(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine.run("c1")
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_settled("top")
    engine.containers["c1"]["State"] |= {
        "Status": "exited",
        "ExitCode": 1,
        "FinishedAt": iso(time.time_ns()),
    }
    engine.restart()
    monkeypatch.setattr(connection, "SETTLE_SECONDS", 3600)
    async with Run(engine.address, before.cursor) as killed:
        await killed.until_settled("gap: engine_restarted")
        await eventually(lambda: b'"unreconciled":true' in (killed.cursor or b""))
        killed.kill()
        with pytest.raises(asyncio.CancelledError):
            await killed._task
        killed._task = asyncio.create_task(asyncio.sleep(0))
    monkeypatch.setattr(connection, "SETTLE_SECONDS", 0.01)
    async with Run(engine.address, killed.cursor) as after:
        await after.until_settled("synthetic die")


async def test_an_audit_finds_what_a_silent_stream_did_not_bring(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.05)
    async with Run(engine.address) as run:
        await run.connected(engine)
        silent = set(engine.streams)
        engine.is_silent = True
        engine.emit("die", moment=time.time_ns() - 5 * 10**9, exitCode="1")
        await run.until_settled("die")
        engine.is_silent = False
        # The stream that brought nothing is replaced.
        await eventually(lambda: bool(engine.streams) and not engine.streams & silent)
        engine.emit("destroy")
        await run.until_settled("die", "destroy")


async def test_an_audit_that_comes_too_late_for_all_is_a_gap(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The stream dropped more than the engine remembers, and then went on."""
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.is_silent = True
        for number in range(300):
            engine.emit("start", f"x{number}")
        engine.is_silent = False
        engine.emit("stop", "x0")
        await run.until_settled("stop")
        monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.01)
        engine.cut()
        await run.until_told(257)
    assert run.actions()[:3] == ["stop", "gap: overflow", "start"]
    gap = run.told[1].body
    assert isinstance(gap, Gap)
    assert gap.since <= gap.until


async def test_an_audit_of_a_healthy_stream_tells_nothing_twice_and_keeps_it(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connection, "AUDIT_SECONDS", 0.01)
    async with Run(engine.address) as run:
        await run.connected(engine)
        (stream,) = engine.streams
        for number in range(200):
            engine.emit("start", f"x{number}")
            await asyncio.sleep(0.001)
        await run.until_settled(*["start"] * 200)
        assert engine.streams == {stream}


async def test_a_bus_that_is_away_never_stops_the_reading(engine: FakeEngine) -> None:
    async with Run(engine.address) as run:
        await run.connected(engine)
        run.bus_is_there.clear()
        for number in range(3000):
            engine.emit("start", f"x{number}")
        (stream,) = engine.streams
        await stream.drain()
        figures = lambda: run.health.report().figures  # noqa: E731
        await eventually(lambda: figures()["backlog_messages"] >= 2700)
        assert stream.transport.get_write_buffer_size() == 0
        run.bus_is_there.set()
        await run.until_settled(*["start"] * 3000)


async def test_more_than_the_memory_holds_is_a_gap_with_its_count(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "EVENTS_MAX", 100)
    monkeypatch.setattr(backlog, "_TOGETHER_MAX", 1)
    async with Run(engine.address) as run:
        await run.connected(engine)
        run.bus_is_there.clear()
        for number in range(500):
            engine.emit("start", f"x{number}")
        (stream,) = engine.streams
        await stream.drain()
        await eventually(lambda: run.health.report().figures["backlog_messages"] >= 99)
        await asyncio.sleep(0.1)
        run.bus_is_there.set()
        await eventually(lambda: "gap: overflow" in run.actions())
        engine.emit("stop", "x0")
        await eventually(lambda: "stop" in run.actions())
    kept = run.actions().count("start")
    gaps = [event.body for event in run.told if isinstance(event.body, Gap)]
    assert sum(gap.lost or 0 for gap in gaps) == 500 - kept
    assert kept >= 100


async def test_a_label_cannot_pass_for_the_exit_code(engine: FakeEngine) -> None:
    engine.run("c1", {"exitCode": "0"})
    async with Run(engine.address) as run:
        await run.connected(engine)
        now = time.time_ns()
        engine.run("c1", {"exitCode": "0"}, Status="exited", ExitCode=137, FinishedAt=iso(now))
        engine.emit("die", moment=now, exitCode="0")
        await run.until_settled("die")
    assert body(run.told[0]).attributes["exitCode"] == "137"
    assert body(run.told[0]).labels == {"exitCode": "0"}


async def test_an_exit_code_of_another_run_is_not_taken(engine: FakeEngine) -> None:
    """The container ran again before it was looked at: better no exit code than a wrong one."""
    engine.run("c1", {"exitCode": "0"})
    async with Run(engine.address) as run:
        await run.connected(engine)
        now = time.time_ns()
        engine.run("c1", {"exitCode": "0"}, Status="exited", ExitCode=5, FinishedAt=iso(now))
        engine.emit("die", moment=now - 10 * 10**9, exitCode="0")
        await run.until_settled("die")
    assert "exitCode" not in body(run.told[0]).attributes


def probed(engine: FakeEngine) -> None:
    engine.run("c1")
    engine.containers["c1"]["Config"]["Healthcheck"] = {"Test": ["CMD-SHELL", "curl -f localhost"]}


def probe(engine: FakeEngine, number: int) -> None:
    execution = f"p{number}"
    engine.emit("exec_create: /bin/sh -c curl -f localhost", execID=execution)
    engine.emit("exec_start: /bin/sh -c curl -f localhost", execID=execution)
    engine.emit("exec_die", execID=execution, exitCode="0")


async def test_execs_of_health_checks_are_not_told_and_a_health_is_told_when_it_changes(
    engine: FakeEngine,
) -> None:
    probed(engine)
    async with Run(engine.address) as run:
        await run.connected(engine)
        for number in range(3):
            probe(engine, number)
            engine.emit("health_status: healthy")
        engine.emit("exec_create: sh ", execID="mine")
        engine.emit("exec_start: sh ", execID="mine")
        engine.emit("exec_die", execID="mine", exitCode="0")
        probe(engine, 4)
        engine.emit("health_status: unhealthy")
        await run.until_settled(
            "health_status: healthy",
            "exec_create: sh ",
            "exec_start: sh ",
            "exec_die",
            "health_status: unhealthy",
        )
    assert engine.asked.count("/containers/c1/json") == 1


async def test_execs_of_health_checks_are_told_where_that_is_wanted(engine: FakeEngine) -> None:
    probed(engine)
    async with Run(engine.address, container_events_healthchecks=True) as run:
        await run.connected(engine)
        probe(engine, 1)
        await run.until_told(3)


async def test_the_end_of_a_health_check_over_a_restart_is_not_told(engine: FakeEngine) -> None:
    probed(engine)
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("exec_create: /bin/sh -c curl -f localhost", execID="p")
        engine.emit("top")
        await before.until_settled("top")
    engine.emit("exec_die", execID="p", exitCode="0")
    engine.emit("pause")
    async with Run(engine.address, before.cursor) as after:
        await after.until_settled("pause")


async def test_untag_and_delete_carry_the_tags_the_image_had(engine: FakeEngine) -> None:
    engine.images["sha256:1"] = ["web:1", "web:2"]
    async with Run(engine.address) as run:
        await run.connected(engine)
        await eventually(lambda: run.cursor is not None)
        engine.images["sha256:1"] = ["web:1"]
        engine.emit("untag", "sha256:1", "image", name="sha256:1")
        await run.until_settled("untag")
        del engine.images["sha256:1"]
        engine.emit("untag", "sha256:1", "image", name="sha256:1")
        engine.emit("delete", "sha256:1", "image", name="sha256:1")
        await run.until_settled("untag", "untag", "delete")
    assert [body(event).image_tags for event in run.told] == [("web:2",), ("web:1",), ("web:1",)]


async def test_a_tag_lost_while_the_collector_was_away_is_carried_too(engine: FakeEngine) -> None:
    engine.images["sha256:1"] = ["web:1", "web:2"]
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_settled("top")
    engine.images["sha256:1"] = ["web:1"]
    engine.emit("untag", "sha256:1", "image", name="sha256:1")
    async with Run(engine.address, before.cursor) as after:
        await after.until_settled("untag")
    assert body(after.told[0]).image_tags == ("web:2",)


async def test_a_skipped_container_is_not_told_nor_what_it_joins(engine: FakeEngine) -> None:
    async with Run(engine.address, container_skip_by_name="proxy") as run:
        await run.connected(engine)
        engine.emit("create", "p", name="proxy-1")
        engine.emit("connect", "net", "network", container="p", name="bridge", type="bridge")
        engine.emit("start", "p", name="proxy-1")
        engine.emit("connect", "net", "network", container="c1", name="bridge", type="bridge")
        await run.until_settled("connect")
    assert body(run.told[0]).attributes["container"] == "c1"


async def test_unreadable_and_huge_messages_cost_only_themselves(
    engine: FakeEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(backlog, "LINE_BYTES_MAX", 70_000)
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.send(b"not json\n" + b'{"Type":1}\n')
        engine.send(b"x" * 200_000)
        engine.send(b"x\n" + message("container", "start", "c1", {"name": "w", "image": "i"}))
        engine.send(b"\n")
        await eventually(lambda: "start" in run.actions())
        assert set(run.actions()) == {"start", "gap: overflow"}


# urllib3 leaves the socket of an attempt that failed to the garbage collector.
@pytest.mark.filterwarnings("ignore:.*unclosed:ResourceWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
async def test_an_absent_engine_is_waited_for_and_said_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "docker.sock"
    async with Run(f"unix://{path}") as run:
        await eventually(lambda: "source" in run.health.report().conditions)
        assert run.source() == (True, f"no Docker Engine at unix://{path}: waiting for one")
        await asyncio.sleep(0.5)
        engine = FakeEngine()
        engine.emit("start")
        await engine.listen(path)
        # It started after the agent did, so its first event is news.
        await run.until_settled("start")
        assert run.source()[1].startswith("Docker Engine 20.10.0")
    engine.close()
    assert sum("waiting for one" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_refused_stream_is_an_error_and_not_an_end(engine: FakeEngine, status: int) -> None:
    engine.refusals["/events"] = status
    async with Run(engine.address) as run:
        await eventually(lambda: "source" in run.health.report().conditions)
        ready, detail = run.source()
        assert not ready
        assert f"HTTP {status}" in detail
        engine.refusals.clear()
        await eventually(lambda: run.source()[0])


async def test_a_proxy_that_lets_nothing_be_listed_leaves_the_stream(engine: FakeEngine) -> None:
    engine.refusals["json"] = 403
    async with Run(engine.address) as run:
        await run.connected(engine)
        engine.emit("die", exitCode="1", team="blue")
        await run.until_settled("die")
    assert body(run.told[0]).attributes["exitCode"] == "1"
    assert body(run.told[0]).labels == {"team": "blue"}


async def test_another_engine_than_before_is_a_first_run(engine: FakeEngine) -> None:
    engine.run("c1")
    async with Run(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_settled("top")
    other = FakeEngine()
    await other.listen_tcp()
    other.emit("start", "old")
    async with Run(other.address, before.cursor) as after:
        await after.connected(other)
        other.emit("start", "new")
        await after.until_settled("start")
    other.close()


async def test_a_cursor_that_cannot_be_read_is_a_first_run(engine: FakeEngine) -> None:
    engine.emit("start")
    async with Run(engine.address, b"\xff") as run:
        await run.connected(engine)
        engine.emit("stop")
        await run.until_settled("stop")


async def test_docker_events_can_be_turned_off(engine: FakeEngine) -> None:
    async with Run(engine.address, container_events_enabled=False) as run:
        await eventually(lambda: "source" in run.health.report().conditions)
        assert run.source()[0]
    assert engine.asked == []


async def test_what_is_held_is_told_before_the_end(engine: FakeEngine) -> None:
    async with Run(engine.address) as run:
        await run.connected(engine)
        run.bus_is_there.clear()
        for number in range(1000):
            engine.emit("start", f"x{number}")
        await eventually(lambda: run.health.report().figures["backlog_messages"] >= 700)
        run.stopping.set()
        await asyncio.sleep(0.05)
        run.bus_is_there.set()
    assert len(run.told) == 1000
    async with Run(engine.address, run.cursor) as after:
        await after.connected(engine)
        await after.until_settled()


async def test_an_engine_behind_tls_is_verified_and_stopped_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By its own authority, also where requests is told of others."""
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", certifi.where())
    await asyncio.to_thread(
        subprocess.run,
        [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-keyout",
            "key.pem",
            "-out",
            "cert.pem",
            "-subj",
            "/CN=127.0.0.1",
            "-days",
            "2",
            "-addext",
            "subjectAltName=IP:127.0.0.1",
        ],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    (tmp_path / "ca.pem").write_bytes((tmp_path / "cert.pem").read_bytes())
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=tmp_path / "ca.pem")
    context.load_cert_chain(tmp_path / "cert.pem", tmp_path / "key.pem")
    context.verify_mode = ssl.CERT_REQUIRED
    engine = FakeEngine()
    await engine.listen_tcp(context)
    async with Run(engine.address, docker_cert_path=str(tmp_path)) as run:
        await run.connected(engine)
        engine.emit("start")
        await run.until_settled("start")
        began = time.monotonic()
    assert time.monotonic() - began < 2
    engine.close()


def iso(moment: int) -> str:
    seconds, nanoseconds = divmod(moment, 10**9)
    return f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{nanoseconds:09d}Z"


def test_the_fixture_speaks_as_the_engine_does() -> None:
    """The fake's lines have the form of the recorded ones."""
    recorded = json.loads(
        (Path(__file__).parent / "fixtures/engine-29.jsonl").read_text().splitlines()[0]
    )
    assert json.loads(message("image", "tag", "i", {"name": "n"})).keys() == recorded.keys()
