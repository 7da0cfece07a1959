"""Keeping one process running, and the terminal that its lines go to."""

from __future__ import annotations

import asyncio
import io
import os
import sys
import threading
import time
from pathlib import Path

import pytest
from broker import eventually

from sematext_agent.agentctl import parts, screen
from sematext_agent.agentctl.parts import PARTS, Part, Supervised
from sematext_agent.agentctl.screen import Screen
from sematext_agent.shared.retry import Backoff


class Lines:
    """What a process had to say."""

    def __init__(self) -> None:
        self.all: list[tuple[str, str]] = []

    def show(self, name: str, line: str) -> None:
        self.all.append((name, line))

    def has(self, text: str) -> bool:
        return any(text in line for _, line in self.all)


def supervise(lines: Lines, program: str, with_output: bool = True) -> Supervised:
    command = (sys.executable, "-c", program)
    return Supervised("part", command, os.environ, lines.show, with_output)


async def test_a_part_that_does_not_stop_in_time_is_killed() -> None:
    lines = Lines()
    deaf = supervise(
        lines,
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "print('deaf', flush=True); time.sleep(60)",
    )
    running = asyncio.create_task(deaf.run())
    await eventually(lambda: lines.has("deaf"))
    await deaf.stop(0.1)
    assert await running == -9
    assert lines.has("is killed")
    assert not deaf.condition.ok


async def test_a_part_that_cannot_be_started_is_tried_again(tmp_path: Path) -> None:
    shown: list[str] = []
    part = Supervised("p", (str(tmp_path / "absent"),), {}, lambda _, line: shown.append(line))
    running = asyncio.create_task(part.run())
    await eventually(lambda: sum("cannot be started" in line for line in shown) == 2)
    await part.stop(1)
    assert await running == 1


async def test_a_part_can_be_stopped_while_it_waits_to_start_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Backoff, "draw_delay_seconds", lambda self: 60.0)
    lines = Lines()
    crashing = supervise(lines, "raise SystemExit(3)")
    running = asyncio.create_task(crashing.run())
    await eventually(lambda: lines.has("ended with status 3, starts again in 60.0 s"))
    begin = time.monotonic()
    await crashing.stop(30)
    assert await running == 3
    assert time.monotonic() - begin < 5


async def test_a_line_that_never_ends_does_not_end_the_reading(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(parts, "_LINE_BYTES_MAX", 1024)
    lines = Lines()
    program = "print('x' * 5000); print('behind it', flush=True); import time; time.sleep(60)"
    process = supervise(lines, program)
    running = asyncio.create_task(process.run())
    await eventually(lambda: lines.has("behind it"))
    await process.stop(0.1)
    await running


async def test_what_a_part_prints_beside_its_log_can_be_left_out() -> None:
    lines = Lines()
    program = (
        "import sys, time; print('document', flush=True); print('log', file=sys.stderr);"
        "time.sleep(60)"
    )
    process = supervise(lines, program, with_output=False)
    running = asyncio.create_task(process.run())
    await eventually(lambda: lines.has("log"))
    await process.stop(0.1)
    await running
    assert not lines.has("document")


def test_the_cluster_is_watched_only_where_there_is_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(parts, "_is_installed", lambda module: True)
    monkeypatch.setenv("HOME", str(tmp_path))
    (kubernetes,) = (part for part in PARTS if part.name == "kubernetes")
    assert not kubernetes.is_here({})
    assert kubernetes.is_here({"KUBECONFIG": "/etc/kubeconfig"})
    assert kubernetes.is_here({"KUBERNETES_SERVICE_HOST": "10.96.0.1"})
    (tmp_path / ".kube").mkdir()
    (tmp_path / ".kube/config").touch()
    assert kubernetes.is_here({})


def test_a_part_that_is_not_installed_is_not_here() -> None:
    assert not Part("ghost", "no_such_module").is_here({})
    assert Part("lifecycle", "sematext_agent.lifecycle_collector").is_here({})


class Paused(io.StringIO):
    """A terminal that is paused (Ctrl-S) until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(10)
        return super().write(text)


def test_a_paused_terminal_makes_nobody_wait_and_is_told_what_it_missed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen, "_LINES_MAX", 10)
    out = Paused()
    terminal = Screen(out)
    for number in range(100):
        terminal.show(f"line {number}")
    assert out.getvalue() == ""
    out.released.set()
    terminal.close()
    shown = out.getvalue().splitlines()
    assert shown[0] == "line 0"
    left_out = next(line for line in shown if "left out" in line)
    assert len(shown) - 1 + int(left_out.split()[0][1:]) == 100


def test_a_terminal_that_is_gone_is_no_reason_to_stop() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        terminal = Screen(out)
        for number in range(3):
            terminal.show(f"line {number}")
        terminal.close()
        assert not terminal._thread.is_alive()


def test_a_control_character_is_shown_escaped() -> None:
    out = io.StringIO()
    terminal = Screen(out)
    terminal.show("a\x1b[31mb\nc")
    terminal.close()
    assert out.getvalue() == "a\\x1b[31mb\\nc\n"
