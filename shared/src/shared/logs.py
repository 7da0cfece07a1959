"""Logging for an unattended program: one line an entry, a name and its values, to stderr.

What a source says is untrusted text. A line break or a control character in it must not make a
second entry, or a colour, in somebody's terminal, so every entry is escaped as a whole. Only the
traceback of a fault takes more lines, each of them indented, as no entry is.
"""

from __future__ import annotations

import logging
import sys
import time
import traceback
from typing import Any


class _OneLine(logging.Formatter):
    """`2026-11-23T15:04:05.123Z INFO docker: connected to the engine`, whatever is in it."""

    converter = staticmethod(time.gmtime)

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - the library's name
        return escape(super().formatMessage(record))

    def formatException(self, fault: Any) -> str:  # noqa: N802 - the library's name
        lines = "".join(traceback.format_exception(*fault)).splitlines()
        return "\n".join(f"    {escape(line)}" for line in lines)


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
    for library in ("nats", "uvicorn", "aiohttp", "docker", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # It warns at every attempt of a server that ends TLS, which is said once by our own.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
