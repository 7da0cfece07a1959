"""Logging for an unattended program: one line an entry, a name and its values, to stderr.

What a source says is untrusted text. A line break or a control character in it must not make a
second line, or a colour, in somebody's terminal, so every entry is escaped as a whole.
"""

from __future__ import annotations

import logging
import sys
import time


class _OneLine(logging.Formatter):
    """`2026-11-23T15:04:05.123Z INFO docker: connected to the engine`, whatever is in it."""

    converter = staticmethod(time.gmtime)

    def format(self, record: logging.LogRecord) -> str:
        return escape(super().format(record))


def escape(text: str) -> str:
    """`text` with every character that is not printable written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def set_up(service: str, level: str) -> None:
    """Sends the log of this process to stderr, at `level` and above."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _OneLine(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {service}: %(message)s", "%Y-%m-%dT%H:%M:%S"
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The libraries tell at INFO what our own entries tell in the user's words.
    for library in ("nats", "uvicorn", "aiohttp", "docker", "urllib3", "asyncio"):
        logging.getLogger(library).setLevel(logging.WARNING)
