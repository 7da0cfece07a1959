"""The walks of docs/architecture.md: tables of the files and functions that an event passes."""

from __future__ import annotations

import re
from pathlib import Path

_DOCUMENT = Path(__file__).parent.parent / "docs/architecture.md"
_row = re.compile(r"^\| `([\w/]+\.py)` \| `([\w.]+)` \|", re.MULTILINE)

Step = tuple[str, str]
"""A file below `sematext_agent/`, and the qualified name of a function in it."""


def read_walk(name: str) -> list[Step]:
    """Return the steps of the walk `name` in their order."""
    section = _DOCUMENT.read_text().split(f"<!-- walk: {name} -->")[1].partition("\n### ")[0]
    return _row.findall(section)
