"""A supervised process: started again when it ends, stopped in time, and read line by line."""

from __future__ import annotations

import asyncio
import os
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
from broker import wait_until

from sematext_agent.agentctl import supervised_process
from sematext_agent.agentctl.supervised_process import SupervisedProcess
from sematext_agent.shared.retry import Backoff


class PrintedLines:
    """The lines that a process printed, with its name."""

    def __init__(self) -> None:
        self.lines: list[tuple[str, str]] = []

    def show(self, name: str, line: str) -> None:
        self.lines.append((name, line))

    def count(self, text: str) -> int:
        return sum(text in line for _, line in self.lines)


def supervise(printed: PrintedLines, program: str, with_output: bool = True) -> SupervisedProcess:
    command = (sys.executable, "-S", "-c", program)
    return SupervisedProcess("service", command, os.environ, printed.show, with_output)


@asynccontextmanager
async def running(process: SupervisedProcess) -> AsyncIterator[asyncio.Task[int]]:
    task = asyncio.create_task(process.run())
    yield task
    await process.stop(0.1)
    await task


async def test_a_process_that_does_not_stop_in_time_is_killed() -> None:
    printed = PrintedLines()
    deaf = supervise(
        printed,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True); time.sleep(60)",
    )
    async with running(deaf) as task:
        await wait_until(lambda: bool(printed.count("deaf")))
    assert task.result() == -9
    assert printed.count("killed: it did not stop within")
    assert not deaf.condition.ok


async def test_a_process_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    printed = PrintedLines()
    process = SupervisedProcess("p", (str(tmp_path / "absent"),), {}, printed.show)
    async with running(process) as task:
        await wait_until(lambda: printed.count("cannot be started") == 2)
    assert task.result() == 1


async def test_a_process_can_be_stopped_while_it_waits_to_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "draw_delay_seconds", lambda self: 60.0)
    printed = PrintedLines()
    crashing = supervise(printed, "raise SystemExit(3)")
    task = asyncio.create_task(crashing.run())
    await wait_until(lambda: bool(printed.count("ended with status 3, starts again in 60.0 s")))
    begin = time.monotonic()
    await crashing.stop(30)
    assert await task == 3
    assert time.monotonic() - begin < 5


async def test_a_process_that_ran_steadily_starts_again_with_the_first_pause() -> None:
    """The clock moves by more than STEADY_SECONDS during every run, so no failure counts twice."""

    class FastClock:
        def __init__(self) -> None:
            self.seconds = 0.0

        def monotonic(self) -> float:
            self.seconds += supervised_process.STEADY_SECONDS + 1
            return self.seconds

        def boottime(self) -> float:
            return self.monotonic()

        def wall_ns(self) -> int:
            return 0

    printed = PrintedLines()
    command = (sys.executable, "-S", "-c", "")
    process = SupervisedProcess("p", command, {}, printed.show, clock=FastClock())
    async with running(process):
        await wait_until(lambda: printed.count("starts again in") == 5)
    pauses = [float(line.split()[-2]) for _, line in printed.lines if "starts again in" in line]
    assert max(pauses) <= 0.5


async def test_a_line_that_is_too_long_does_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(supervised_process, "_LINE_BYTES_MAX", 1024)
    printed = PrintedLines()
    program = "print('x' * 5000); print('behind it', flush=True); import time; time.sleep(60)"
    async with running(supervise(printed, program)):
        await wait_until(lambda: bool(printed.count("behind it")))
    assert printed.count("(a line of more than 1024 bytes)")


async def test_the_output_beside_the_log_can_be_left_out() -> None:
    printed = PrintedLines()
    program = (
        "import sys, time; print('document', flush=True); print('log', file=sys.stderr);"
        "time.sleep(60)"
    )
    async with running(supervise(printed, program, with_output=False)):
        await wait_until(lambda: bool(printed.count("log")))
    assert not printed.count("document")
