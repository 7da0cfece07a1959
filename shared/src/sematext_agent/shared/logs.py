"""Logging for an unattended program: one line for each entry, to stderr.

The text of a source is untrusted. A line break or a control character in it must not make a
second entry, or a colour, in a terminal, so every entry is escaped as a whole. Only the
traceback of a fault takes more lines, each of them indented, as no entry is.

The text of a fault may repeat what a library was given, so the secrets of the process are taken out
of every entry and traceback.

A fault may repeat, for as long as nobody looks and as often as a stranger likes, so each line of
code has a bound of entries a minute.
"""

from __future__ import annotations

import json
import logging
import sys
import time
import traceback
from collections.abc import Hashable, Iterable
from typing import Any
from urllib.parse import quote

ENTRIES_A_MINUTE_MAX = 20
"""Log entries of one line of code that are written in a minute."""
_MINUTE_SECONDS = 60.0
_KEYS_MAX = 500


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


class RepeatFilter:
    """A memory of recent keys, which lets each pass a few times a minute."""

    def __init__(self, passes_max: int = 1) -> None:
        """Begin without any key."""
        self._passes_max = passes_max
        self._minutes: dict[Hashable, tuple[float, int]] = {}
        """When the key's minute began, and how often the key came in it."""

    def passes(self, key: Hashable, now_seconds: float) -> bool:
        """Return whether `key` has not passed too often in its minute; if so, it passes now."""
        return self.count(key, now_seconds) <= self._passes_max

    def count(self, key: Hashable, now_seconds: float) -> int:
        """Return how often `key` came in its minute, with this time."""
        began, count = self._minutes.get(key, (now_seconds, 0))
        # A wall clock may also have been set back.
        if not 0 <= now_seconds - began < _MINUTE_SECONDS:
            began, count = now_seconds, 0
        if key not in self._minutes and len(self._minutes) >= _KEYS_MAX:
            self._minutes.clear()
        self._minutes[key] = began, count + 1
        return count + 1


class _RepeatLimit(logging.Filter):
    """A bound for the entries of one line of code: a fault that repeats must not fill a disk.

    Debug entries are not limited.
    """

    def __init__(self) -> None:
        super().__init__()
        self._repeats = RepeatFilter()

    def filter(self, record: logging.LogRecord) -> bool:
        if record.levelno <= logging.DEBUG:
            return True
        count = self._repeats.count((record.pathname, record.lineno), record.created)
        if count == ENTRIES_A_MINUTE_MAX:
            record.msg = f"{record.msg} (the rest of its kind in this minute is left out)"
        return count <= ENTRIES_A_MINUTE_MAX


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
    handler.addFilter(_RepeatLimit())
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    # At INFO the libraries repeat what our own entries report in the user's words.
    for library in ("nats", "uvicorn", "aiohttp", "docker", "urllib3"):
        logging.getLogger(library).setLevel(logging.WARNING)
    # asyncio warns at every attempt of a server that ends TLS, which our own entry reports once.
    logging.getLogger("asyncio").setLevel(logging.ERROR)
