"""Waiting for an event such as the stop of a service, with a bound or beside other work."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Awaitable
from typing import Any, TypeVar

T = TypeVar("T")

_CANCEL_AGAIN_SECONDS = 3.0
"""Time that cancelled work has to clean up, before it is cancelled once more."""


async def wait_for_event(event: asyncio.Event, seconds: float) -> bool:
    """Wait for `event`, for at most `seconds`; return whether it is set.

    With the event of a service's stop this is a sleep that ends early.
    """
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
    return event.is_set()


async def run_until_event(event: asyncio.Event, work: Awaitable[T]) -> T | None:
    """Return the result of `work`, or None where `event` is set first; then `work` is cancelled.

    Work that has a result when the event is set keeps it.

    Raises:
        Exception: whatever `work` raises.
    """
    working = asyncio.ensure_future(work)
    waiting = asyncio.ensure_future(event.wait())
    try:
        await asyncio.wait((working, waiting), return_when=asyncio.FIRST_COMPLETED)
        return working.result() if working.done() else None
    finally:
        pending: set[asyncio.Future[Any]] = {working, waiting}
        while pending:
            # `asyncio.wait_for` of Python 3.11 loses a cancellation that meets the end of its work,
            # such as a refused connection that the client retries: it is cancelled again.
            for task in pending:
                task.cancel()
            _, pending = await asyncio.wait(pending, timeout=_CANCEL_AGAIN_SECONDS)
