"""The cursor of this source: its position in the kernel's log, as it is stored."""

from __future__ import annotations

import logging
from typing import Annotated

import msgspec

from sematext_agent.shared.decode_errors import DECODE_ERRORS
from sematext_agent.shared.events import Nanoseconds

log = logging.getLogger(__name__)

CURSOR_NAME = "oom"
"""The name of this source's cursor among those of the collector."""


class KernelLogCursor(msgspec.Struct, frozen=True, kw_only=True):
    """The position up to which events and gaps have been emitted."""

    boot: str
    """The id of the kernel's boot."""
    sequence: Annotated[int, msgspec.Meta(ge=-1, le=2**63 - 1)] | None
    """The last record that is processed; None where none was ever read."""
    kills: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None
    """Kills of the kernel's counter that are covered by events or gaps; None without a counter."""
    time: Nanoseconds
    """The moment of that position, in nanoseconds since the epoch."""


def decode_cursor(stored: bytes | None) -> KernelLogCursor | None:
    """Return the stored cursor, or None where there is none that can be decoded."""
    try:
        return msgspec.json.decode(stored, type=KernelLogCursor) if stored else None
    except DECODE_ERRORS as error:
        log.warning("stored cursor of OOM kills ignored: %s (kills until now are skipped)", error)
        return None
