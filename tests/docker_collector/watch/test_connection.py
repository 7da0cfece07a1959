"""The watch and the connection: an absent, refusing, other or TLS engine."""

from __future__ import annotations

import asyncio
import ssl
import subprocess
import time
from pathlib import Path

import certifi
import pytest
from broker import wait_until
from docker_collector.watch_run import LEAKED_SOCKETS, WatchRun, docker_body
from fake_engine import FakeEngine

pytestmark = LEAKED_SOCKETS


async def test_an_absent_engine_is_waited_for_and_logged_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    path = tmp_path / "docker.sock"
    async with WatchRun(f"unix://{path}") as run:
        await wait_until(lambda: "source" in run.health.report().conditions)
        assert run.source() == (True, f"no Docker Engine at unix://{path}: waiting for one")
        await asyncio.sleep(0.5)
        engine = FakeEngine()
        engine.emit("start")
        await engine.listen(path)
        # It started after the agent did, so its first event is news.
        await run.until_exactly("start")
        assert run.source()[1].startswith("Docker Engine 20.10.0")
    engine.close()
    assert sum("waiting for one" in record.message for record in caplog.records) == 1


@pytest.mark.parametrize("status", [400, 403, 500])
async def test_a_refused_stream_is_an_error_and_not_an_end(engine: FakeEngine, status: int) -> None:
    engine.refusals["/events"] = status
    async with WatchRun(engine.address) as run:
        await wait_until(lambda: "source" in run.health.report().conditions)
        ready, detail = run.source()
        assert not ready
        assert f"HTTP {status}" in detail
        engine.refusals.clear()
        await wait_until(lambda: run.source()[0])


async def test_the_stream_is_followed_where_a_proxy_forbids_lists(engine: FakeEngine) -> None:
    engine.refusals["json"] = 403
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        engine.emit("die", exitCode="1", team="blue")
        await run.until_exactly("die")
    assert docker_body(run.events[0]).attributes["exitCode"] == "1"
    assert docker_body(run.events[0]).labels == {"team": "blue"}


async def test_a_cursor_of_another_engine_is_a_first_run(engine: FakeEngine) -> None:
    engine.run("c1")
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_exactly("top")
    second = FakeEngine()
    await second.listen_tcp()
    second.emit("start", "old")
    async with WatchRun(second.address, before.cursor) as after:
        await after.connected(second)
        second.emit("start", "new")
        await after.until_exactly("start")
    second.close()


async def test_an_undecodable_cursor_is_a_first_run(engine: FakeEngine) -> None:
    engine.emit("start")
    async with WatchRun(engine.address, b"\xff") as run:
        await run.connected(engine)
        engine.emit("stop")
        await run.until_exactly("stop")


async def test_docker_events_can_be_turned_off(engine: FakeEngine) -> None:
    async with WatchRun(engine.address, container_events_enabled=False) as run:
        await wait_until(lambda: "source" in run.health.report().conditions)
        assert run.source()[0]
    assert engine.requests == []


async def test_an_engine_with_tls_is_verified_by_its_own_authority_and_a_stop_is_immediate(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The authority of the settings counts, also where requests has another one."""
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
    async with WatchRun(engine.address, docker_cert_path=str(tmp_path)) as run:
        await run.connected(engine)
        engine.emit("start")
        await run.until_exactly("start")
        began = time.monotonic()
    assert time.monotonic() - began < 2
    engine.close()
