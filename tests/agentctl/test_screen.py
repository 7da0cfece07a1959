"""The screen never blocks its callers, and shows every line whole and escaped."""

from __future__ import annotations

import io
import os
import threading

import pytest

from sematext_agent.agentctl import screen
from sematext_agent.agentctl.screen import Screen


class PausedTerminal(io.StringIO):
    """A terminal that is paused (Ctrl-S) until it is released."""

    def __init__(self) -> None:
        super().__init__()
        self.released = threading.Event()

    def write(self, text: str) -> int:
        self.released.wait(10)
        return super().write(text)


def show(*lines: str) -> list[str]:
    """Return the lines that a screen shows for `lines`."""
    out = io.StringIO()
    terminal = Screen(out)
    for line in lines:
        terminal.show(line)
    terminal.close()
    return out.getvalue().split("\n")[:-1]


def test_a_paused_terminal_blocks_nobody_and_shows_how_many_lines_were_dropped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(screen, "_LINES_MAX", 10)
    out = PausedTerminal()
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


def test_a_closed_terminal_does_not_end_the_screen() -> None:
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as out:
        terminal = Screen(out)
        for number in range(3):
            terminal.show(f"line {number}")
        terminal.close()
        assert not terminal._thread.is_alive()


def test_a_control_character_is_shown_escaped() -> None:
    assert show("a\x1b[31mb\nc") == ["a\\x1b[31mb\\nc"]


def test_a_log_line_loses_its_level_and_any_other_line_is_kept() -> None:
    out = io.StringIO()
    terminal = Screen(out)
    terminal.show_log_line("docker", "1970-01-01T00:00:00Z INFO docker: stopped")
    terminal.show_log_line("docker", "1970-01-01T00:00:00Z WARNING docker: bus: away")
    terminal.show_log_line("docker", "Traceback")
    terminal.close()
    first, second, third = out.getvalue().splitlines()
    assert first.endswith(" docker     | stopped")
    assert second.endswith(" docker     | WARNING bus: away")
    assert third == "             docker     | Traceback"
