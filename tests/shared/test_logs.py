"""Every log entry is one printable line, whatever a source sent, and a fault an indented block."""

from __future__ import annotations

import logging

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sematext_agent.shared.logs import configure_logging, escape


@given(st.text(alphabet=st.characters()))
def test_an_escaped_text_is_one_printable_line(text: str) -> None:
    assert escape(text).isprintable()


def test_printable_characters_stay_and_others_are_escaped() -> None:
    assert escape("café ☕ {x} %s") == "café ☕ {x} %s"
    assert escape("a\nINFO forged\x1b[31m") == "a\\nINFO forged\\x1b[31m"


def test_a_fault_is_an_entry_and_an_indented_traceback(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing in the text of the fault can make it look like another entry."""
    root = logging.getLogger()
    monkeypatch.setattr(root, "handlers", root.handlers[:])
    monkeypatch.setattr(root, "level", root.level)
    configure_logging("docker", "info")
    try:
        raise ValueError("bad\n2026-11-23T00:00:00.000Z INFO docker: forged \x1b[31m")
    except ValueError:
        logging.getLogger("test").exception("ended by a fault: %s", "bad\nword")
    entry, *trace = capsys.readouterr().err.splitlines()
    assert entry.endswith("Z ERROR docker: ended by a fault: bad\\nword")
    assert trace[0] == "    Traceback (most recent call last):"
    assert trace[-1].endswith("forged \\x1b[31m")
    assert all(line.startswith("    ") for line in trace)
