"""A full disk, without a person: the broker is started again once there is room.

After a write that failed, nats-server freezes the stream until it is started again, also when the
disk has room again (2.14 and later). Publishers only see that no acknowledgement comes, so the
server is asked itself, as its system account may.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import shutil
from collections.abc import Awaitable, Callable
from pathlib import Path

import msgspec

from sematext_agent.shared.bus import Bus

log = logging.getLogger(__name__)

HEALTH = "$SYS.REQ.SERVER.PING.HEALTHZ"
LOOK_SECONDS = 5.0
UNWELL_LOOKS = 2
"""So many looks in a row must find it unwell: a stream may be about to be ready."""
FREE_BYTES_MIN = 16 * 1024 * 1024
"""With less room on the disk a new start would fail as the last write did."""
_ANSWER_SECONDS = 0.5


class _Health(msgspec.Struct):
    status: str = "ok"
    error: str = ""


class _Answer(msgspec.Struct):
    data: _Health


async def watch_disk(
    unwell: Callable[[], Awaitable[str]], restart: Callable[[str], None], store: Path
) -> None:
    """Restarts, for ever, a broker that stays unwell although the disk of `store` has room.

    `unwell` says what is wrong with it, or nothing; `restart` is told the same.
    """
    looks = 0
    while True:
        await asyncio.sleep(LOOK_SECONDS)
        problem = await unwell()
        looks = looks + 1 if problem else 0
        if looks >= UNWELL_LOOKS and shutil.disk_usage(store).free >= FREE_BYTES_MIN:
            restart(problem)
            looks = 0


async def unwell(connection: Bus) -> str:
    """What the broker says is wrong with it; nothing where all is well, or it does not answer."""
    if not connection.is_connected:
        return ""
    for answer in await connection.request_all(HEALTH, _ANSWER_SECONDS):
        with contextlib.suppress(msgspec.DecodeError):
            health = msgspec.json.decode(answer, type=_Answer).data
            return "" if health.status == "ok" else health.error or health.status
    return ""
