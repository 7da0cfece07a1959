"""Logging for an unattended program: one line an entry, a name and its values, to stderr.

What a source says is untrusted text. A line break or a control character in it must not make a
second entry, or a colour, in somebody's terminal, so every entry is escaped as a whole. Only the
traceback of a fault takes more lines, each of them indented, as no entry is.

The text of a fault may repeat what a library was given, so the secrets of the process are taken out
of every entry and traceback.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote


class _OneLine(logging.Formatter):
    """`2026-11-23T15:04:05.123Z INFO docker: connected to the engine`, whatever is in it."""

    converter = staticmethod(time.gmtime)

    def __init__(self, form: str, moment: str, secrets: Iterable[str]) -> None:
        super().__init__(form, moment)
        written = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
        # The longest first: one may be part of another.
        self._secrets = sorted(written - {""}, key=len, reverse=True)

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        for secret in self._secrets:
            text = text.replace(secret, "********")
        return text

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


def escape_json(text: str) -> str:
    """`text`, which is JSON on one line, as the same JSON with nothing in it that is not printable.

    JSON itself lets DEL, the C1 control characters and those that turn the direction stand.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def configure_logging(service: str, level: str, secrets: Iterable[str] = ()) -> None:
    """Sends the log of this process to stderr, at `level` and above, without the `secrets`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _OneLine(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {service}: %(message)s",
            "%Y-%m-%dT%H:%M:%S",
            secrets,
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # The libraries tell at INFO what our own entries tell in the user's words.
    for library in ("nats", "uvicorn", "aiohttp", "docker", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # It warns at every attempt of a server that ends TLS, which is said once by our own.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
