"""The watch and what it knows of objects: labels, exit codes, health checks, tags."""

from __future__ import annotations

import time

from broker import wait_until
from docker_collector.watch_run import LEAKED_SOCKETS, WatchRun, docker_body
from fake_engine import FakeEngine, iso

pytestmark = LEAKED_SOCKETS


async def test_an_exit_code_that_a_label_hides_comes_from_inspection(
    engine: FakeEngine,
) -> None:
    engine.run("c1", {"exitCode": "0"})
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        now = time.time_ns()
        engine.run("c1", {"exitCode": "0"}, Status="exited", ExitCode=137, FinishedAt=iso(now))
        engine.emit("die", moment=now, exitCode="0")
        await run.until_exactly("die")
    assert docker_body(run.events[0]).attributes["exitCode"] == "137"
    assert docker_body(run.events[0]).labels == {"exitCode": "0"}


async def test_an_exit_code_of_another_run_is_omitted(
    engine: FakeEngine,
) -> None:
    """The container ran again before its inspection: better no exit code than a wrong one."""
    engine.run("c1", {"exitCode": "0"})
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        now = time.time_ns()
        engine.run("c1", {"exitCode": "0"}, Status="exited", ExitCode=5, FinishedAt=iso(now))
        engine.emit("die", moment=now - 10 * 10**9, exitCode="0")
        await run.until_exactly("die")
    assert "exitCode" not in docker_body(run.events[0]).attributes


def add_health_check(engine: FakeEngine) -> None:
    engine.run("c1")
    engine.containers["c1"]["Config"]["Healthcheck"] = {"Test": ["CMD-SHELL", "curl -f localhost"]}


def run_health_check(engine: FakeEngine, number: int) -> None:
    execution = f"p{number}"
    engine.emit("exec_create: /bin/sh -c curl -f localhost", execID=execution)
    engine.emit("exec_start: /bin/sh -c curl -f localhost", execID=execution)
    engine.emit("exec_die", execID=execution, exitCode="0")


async def test_execs_of_health_checks_and_an_unchanged_health_are_dropped(
    engine: FakeEngine,
) -> None:
    add_health_check(engine)
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        for number in range(3):
            run_health_check(engine, number)
            engine.emit("health_status: healthy")
        engine.emit("exec_create: sh ", execID="mine")
        engine.emit("exec_start: sh ", execID="mine")
        engine.emit("exec_die", execID="mine", exitCode="0")
        run_health_check(engine, 4)
        engine.emit("health_status: unhealthy")
        await run.until_exactly(
            "health_status: healthy",
            "exec_create: sh ",
            "exec_start: sh ",
            "exec_die",
            "health_status: unhealthy",
        )
    assert engine.requests.count("/containers/c1/json") == 1


async def test_execs_of_health_checks_are_emitted_where_settings_include_them(
    engine: FakeEngine,
) -> None:
    add_health_check(engine)
    async with WatchRun(engine.address, container_events_healthchecks=True) as run:
        await run.connected(engine)
        run_health_check(engine, 1)
        await run.until_count(3)


async def test_the_end_of_a_health_check_after_a_restart_is_dropped(engine: FakeEngine) -> None:
    add_health_check(engine)
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("exec_create: /bin/sh -c curl -f localhost", execID="p")
        engine.emit("top")
        await before.until_exactly("top")
    engine.emit("exec_die", execID="p", exitCode="0")
    engine.emit("pause")
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_exactly("pause")


async def test_untag_and_delete_carry_the_tags_the_image_had(engine: FakeEngine) -> None:
    engine.images["sha256:1"] = ["web:1", "web:2"]
    async with WatchRun(engine.address) as run:
        await run.connected(engine)
        await wait_until(lambda: run.cursor is not None)
        engine.images["sha256:1"] = ["web:1"]
        engine.emit("untag", "sha256:1", "image", name="sha256:1")
        await run.until_exactly("untag")
        del engine.images["sha256:1"]
        engine.emit("untag", "sha256:1", "image", name="sha256:1")
        engine.emit("delete", "sha256:1", "image", name="sha256:1")
        await run.until_exactly("untag", "untag", "delete")
    assert [docker_body(event).image_tags for event in run.events] == [
        ("web:2",),
        ("web:1",),
        ("web:1",),
    ]


async def test_an_untag_during_an_absence_carries_the_tag_too(engine: FakeEngine) -> None:
    engine.images["sha256:1"] = ["web:1", "web:2"]
    async with WatchRun(engine.address) as before:
        await before.connected(engine)
        engine.emit("top")
        await before.until_exactly("top")
    engine.images["sha256:1"] = ["web:1"]
    engine.emit("untag", "sha256:1", "image", name="sha256:1")
    async with WatchRun(engine.address, before.cursor) as after:
        await after.until_exactly("untag")
    assert docker_body(after.events[0]).image_tags == ("web:2",)


async def test_a_skipped_container_and_its_networks_are_dropped(
    engine: FakeEngine,
) -> None:
    async with WatchRun(engine.address, container_skip_by_name="proxy") as run:
        await run.connected(engine)
        engine.emit("create", "p", name="proxy-1")
        engine.emit("connect", "net", "network", container="p", name="bridge", type="bridge")
        engine.emit("start", "p", name="proxy-1")
        engine.emit("connect", "net", "network", container="c1", name="bridge", type="bridge")
        await run.until_exactly("connect")
    assert docker_body(run.events[0]).attributes["container"] == "c1"
