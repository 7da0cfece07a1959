"""What a terminal shows that a pipe does not: colours, and lines broken at its width."""

from __future__ import annotations

import os
import shutil
import textwrap
from typing import TextIO

_COLOURS = {"error": "1;31", "warning": "33", "good": "32", "faint": "2", "source": "36"}
_WIDTH_MIN = 20


class Terminal:
    """How to write to `out`: in colours and to a width where it is a terminal, plainly elsewhere.

    `NO_COLOR` (https://no-color.org) and `TERM=dumb` leave the colours out.
    """

    def __init__(self, out: TextIO) -> None:
        is_one = out.isatty()
        self.width = shutil.get_terminal_size().columns if is_one else 0
        """In characters; 0 where lines have no end."""
        self._in_colours = (
            is_one and not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"
        )

    def paint(self, text: str, colour: str) -> str:
        """`text` in one of the colours above; as it is for any other word."""
        if not self._in_colours or colour not in _COLOURS:
            return text
        return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"

    def wrapped(self, text: str) -> list[str]:
        """`text` in lines of the terminal's width; those after the first are indented."""
        if len(text) <= self.width or self.width < _WIDTH_MIN:
            return [text]
        return textwrap.wrap(text, self.width, subsequent_indent=" " * 6)
