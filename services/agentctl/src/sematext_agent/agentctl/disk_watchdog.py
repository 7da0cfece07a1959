"""The disk watchdog: restarts the broker when its disk was full and has room again.

After a write that failed, nats-server freezes the stream until its next start, also when the disk
has room again (2.14 and later). Publishers only miss their acknowledgements, so the watchdog asks
the server itself, with the rights of its system account or on its health page.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import shutil
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

import msgspec

if TYPE_CHECKING:  # whoever has another way to the server's health does not pay for it
    from sematext_agent.shared.bus import Bus

HEALTH_SUBJECT = "$SYS.REQ.SERVER.PING.HEALTHZ"
CHECK_SECONDS = 5.0
FAILED_CHECKS_MIN = 2
"""Failed checks in a row before a restart: a stream may be about to be ready."""
FREE_BYTES_MIN = 16 * 1024 * 1024
"""With less room on the disk a new start would fail as the last write did."""
_ANSWER_SECONDS = 0.5
_FULL_ERRNOS = (errno.ENOSPC, errno.EDQUOT)

T = TypeVar("T")


class ServerHealth(msgspec.Struct):
    """The health of the server, as it answers on both ways."""

    status: str = "ok"
    error: str = ""


class _HealthAnswer(msgspec.Struct):
    data: ServerHealth


async def watch_disk(
    read_problem: Callable[[], Awaitable[str]], restart: Callable[[str], None], store: Path
) -> None:
    """Restart, for ever, a broker that stays unhealthy although the disk of `store` has room.

    `read_problem` returns what is wrong with the broker, or an empty text; `restart` is called
    with that text.
    """
    failed_checks = 0
    while True:
        await asyncio.sleep(CHECK_SECONDS)
        problem = await read_problem()
        failed_checks = failed_checks + 1 if problem else 0
        if failed_checks >= FAILED_CHECKS_MIN and has_free_space(store):
            restart(problem)
            failed_checks = 0


def retry_while_disk_is_full(
    action: Callable[[], T],
    show: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> T:
    """Return the result of `action`, which is tried again for as long as its disk is full."""
    is_shown = False
    while True:
        try:
            return action()
        except OSError as error:
            if error.errno not in _FULL_ERRNOS:
                raise
            if not is_shown:
                show(f"cannot start yet: {error} (make room; the agent starts by itself)")
                is_shown = True
            sleep(CHECK_SECONDS)


def has_free_space(store: Path) -> bool:
    """Return whether a start of the broker can write to the disk of `store`."""
    return shutil.disk_usage(store).free >= FREE_BYTES_MIN


async def read_broker_problem(connection: Bus) -> str:
    """Return the problem that the broker reports; empty if it reports none or does not answer."""
    if not connection.is_connected:
        return ""
    for answer in await connection.request_all(HEALTH_SUBJECT, _ANSWER_SECONDS):
        with contextlib.suppress(msgspec.DecodeError):
            health = msgspec.json.decode(answer, type=_HealthAnswer).data
            return "" if health.status == "ok" else health.error or health.status
    return ""
