"""Every log entry is one printable line, whatever a source sent, and a fault an indented block."""

from __future__ import annotations

import logging
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.shared.logs import (
    ENTRIES_A_MINUTE_MAX,
    RepeatFilter,
    configure_logging,
    escape,
)


@given(st.text(alphabet=st.characters()))
def test_an_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


def test_printable_characters_stay_and_others_are_escaped() -> None:
    assert escape("café ☕ {x} %s") == "café ☕ {x} %s"
    assert escape("a\nINFO forged\x1b[31m") == "a\\nINFO forged\\x1b[31m"


def configure(monkeypatch: pytest.MonkeyPatch) -> logging.Logger:
    """Return a logger of a process whose level is debug, until the test ends."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    configure_logging("docker", "debug")
    return logging.getLogger("test")


def test_a_fault_is_an_entry_and_an_indented_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the text of the fault can make it look like another entry."""
    log = configure(monkeypatch)
    try:
        raise ValueError("bad\n2026-11-23T00:00:00.000Z INFO docker: forged \x1b[31m")
    except ValueError:
        log.exception("ended by a fault: %s", "bad\nword")
    entry, *trace = capsys.readouterr().err.splitlines()
    assert entry.endswith("Z ERROR docker: ended by a fault: bad\\nword")
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1].endswith("forged \\x1b[31m")
    assert all(line.startswith("    ") for line in trace)


def test_a_fault_that_repeats_does_not_fill_the_log(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each time with another text, and a traceback; beside it others are still heard."""
    monkeypatch.setattr(time, "time", lambda: 1_000.0)
    log = configure(monkeypatch)
    for number in range(10_000):
        log.error("%d%% of it failed", number, exc_info=ValueError("x"))
    log.info("another")
    first = capsys.readouterr().err.splitlines()
    entries = [line for line in first if " ERROR docker: " in line]
    assert len(entries) == ENTRIES_A_MINUTE_MAX
    assert len(first) < 5 * ENTRIES_A_MINUTE_MAX
    assert entries[-2].endswith("18% of it failed")
    assert entries[-1].endswith(
        "19% of it failed (the rest of its kind in this minute is left out)"
    )
    assert first[-1].endswith("another")


def test_debug_entries_are_not_limited(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    log = configure(monkeypatch)
    for number in range(10 * ENTRIES_A_MINUTE_MAX):
        log.debug("%d", number)
    assert len(capsys.readouterr().err.splitlines()) == 10 * ENTRIES_A_MINUTE_MAX


def test_the_same_text_passes_once_a_minute() -> None:
    repeats = RepeatFilter()
    assert [repeats.passes("a", now) for now in (0, 1, 59, 60, 61)] == [
        True,
        False,
        False,
        True,
        False,
    ]
    assert repeats.passes("b", 61)


def test_a_key_passes_as_often_as_it_may_and_again_after_its_minute() -> None:
    repeats = RepeatFilter(2)
    times = (100, 101, 159, 160, 50, 51, 52)  # in the end the clock is set back
    assert [repeats.passes("a", now) for now in times] == [
        True,
        True,
        False,
        True,
        True,
        True,
        False,
    ]


def test_a_filter_remembers_a_bounded_number_of_keys() -> None:
    repeats = RepeatFilter()
    for number in range(10_000):
        assert repeats.passes(number, 0)
    assert len(repeats._minutes) <= 500
