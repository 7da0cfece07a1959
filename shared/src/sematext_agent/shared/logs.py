"""Logging for an unattended program: one line for each entry, to stderr.

The text of a source is untrusted. A line break or a control character in it must not make a
second entry, or a colour, in a terminal, so every entry is escaped as a whole. Only the
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
    """The form `2026-11-23T15:04:05.123Z INFO docker: connected`, whatever an entry holds."""

    converter = staticmethod(time.gmtime)

    def __init__(self, entry_format: str, time_format: str, secrets: Iterable[str]) -> None:
        """Format entries and times, and replace each of the `secrets`, also in its URL form."""
        super().__init__(entry_format, time_format)
        forms = {form for secret in secrets for form in (secret, quote(secret, safe=""))}
        # The longest first: a secret may be part of a longer one.
        self._secrets = sorted(forms - {""}, key=len, reverse=True)

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
    """Return `text` with every character that is not printable written as its escape."""
    if text.isprintable():
        return text
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text
    )


def escape_json(text: str) -> str:
    """Return `text`, which is JSON on one line, as the same JSON with printable characters only.

    JSON itself allows DEL, the C1 control characters and those that change the text's direction.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in text)


def configure_logging(service: str, level: str, secrets: Iterable[str] = ()) -> None:
    """Send the log of this process to stderr, at `level` and above, without the `secrets`."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        _OneLine(
            f"%(asctime)s.%(msecs)03dZ %(levelname)s {service}: %(message)s",
            "%Y-%m-%dT%H:%M:%S",
            secrets,
        )
    )
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At INFO the libraries repeat what our own entries report in the user's words.
    for library in ("nats", "uvicorn", "aiohttp", "docker", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # asyncio warns at every attempt of a server that ends TLS, which our own entry reports once.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
