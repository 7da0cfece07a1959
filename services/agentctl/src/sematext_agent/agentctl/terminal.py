"""The format for a terminal, which a pipe does not get: colours, and lines of its width."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO

_COLOURS = {"error": "1;31", "warning": "33", "good": "32", "faint": "2", "source": "36"}
_WIDTH_MIN = 20


class Terminal:
    """The format for `out`: colours and a width if it is a terminal, plain lines otherwise.

    `NO_COLOR` (https://no-color.org) and `TERM=dumb` leave the colours out.
    """

    def __init__(self, out: TextIO) -> None:
        is_terminal = out.isatty()
        self.width = shutil.get_terminal_size().columns if is_terminal else 0
        """In characters; 0 for lines without an end."""
        self._has_colours = (
            is_terminal and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    def paint(self, text: str, colour: str) -> str:
        """Return `text` in one of the colours above; unchanged for any other name."""
        if not self._has_colours or colour not in _COLOURS:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def wrap(self, text: str) -> list[str]:
        """Return `text` in lines of the terminal's width; those after the first are indented."""
        if len(text) <= self.width or self.width < _WIDTH_MIN:
            return [text]
        return textwrap.wrap(text, self.width, subsequent_indent=" " * 6)
