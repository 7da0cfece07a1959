"""The two requests that tell of events: a list in pages, and a watch in lines."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable

import aiohttp

from sematext_agent.kubernetes_collector.api import Api, ApiError, Patience
from sematext_agent.kubernetes_collector.frames import Lines, Page, decode_page
from sematext_agent.shared.retry import Backoff

log = logging.getLogger(__name__)

WATCH_SECONDS = (240.0, 290.0)
"""How long the server is asked to keep a watch open: below the five minutes of many balancers."""
LATE_SECONDS = 15.0
"""How long after that the server may be silent; then the connection leads nowhere."""
GRACE_SECONDS = 1.0
PAGE_ITEMS = 500
PAGE_ITEMS_MAX = 4000
"""The largest page, taken where smaller ones were too slow for the cluster's memory of them."""


class Feed:
    """The events of a cluster, or of one namespace of it, as the API gives them."""

    def __init__(
        self, api: Api, patience: Patience, stopping: asyncio.Event, namespace: str
    ) -> None:
        self._api = api
        self._patience = patience
        self._stopping = stopping
        self._path = f"/api/v1/namespaces/{namespace}/events" if namespace else "/api/v1/events"

    async def page(self, limit: int, token: str = "") -> Page | None:
        """A page of the list, however often it takes; None when we shall stop.

        Raises:
            ApiError: 410, the token is no longer good.
        """
        params = {"limit": str(limit)} | ({"continue": token} if token else {})

        async def attempt() -> Page:
            return decode_page(await self._api.request("GET", self._path, params))

        return await self._patience.persist(attempt)

    async def pages(self) -> AsyncGenerator[Page, None]:
        """The whole list, of which nothing is kept. Ends early when we shall stop.

        A watch from the revision of the first page tells all that the list may have missed.
        """
        limit, token, more = PAGE_ITEMS, "", True
        backoff, has_expired = Backoff(0.2, 30), False
        while more:
            try:
                page = await self.page(limit, token)
            except ApiError as error:
                # The list took longer than the cluster remembers its state. It offers to go on in
                # a newer state; without that offer, the list begins anew.
                token, limit = error.continue_token, min(limit * 2, PAGE_ITEMS_MAX)
                log.info("the list expired while it was read: pages of %d from here", limit)
                if has_expired:  # a server may say so of every page, or of every second one
                    await self._patience.after(error, backoff)
                has_expired = True
                continue
            if page is None:
                return
            yield page
            token = page.token
            more = bool(token)

    async def lines(
        self, revision: int, seconds_to_next: Callable[[], float | None]
    ) -> AsyncGenerator[list[bytes], None]:
        """The lines of one watch from `revision` on, as they arrive, until the server ends it.

        None, an empty list, when `seconds_to_next` have passed before anything arrived. Ends early
        when we shall stop.

        Raises:
            ApiError: the watch was refused or broke off, or the server has been silent for too
                long. Only this deadline notices a balancer whose server has gone.
        """
        seconds = random.uniform(*WATCH_SECONDS)  # noqa: S311 - spreads load, guards no secret
        params = {
            "watch": "1",
            # Events get none today; where they do, they keep our place young.
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(math.ceil(seconds)),
            "resourceVersion": str(revision),
        }
        deadline = _clock() + seconds + LATE_SECONDS
        async with self._api.stream("GET", self._path, params) as content:
            lines = Lines()
            yield []
            while (chunk := await self._read(content, deadline, seconds_to_next())) is not None:
                yield lines.feed(chunk) if chunk else []

    async def _read(
        self, content: aiohttp.StreamReader, deadline: float, seconds: float | None
    ) -> bytes | None:
        """What has arrived; empty after `seconds`; None at the end or when we shall stop."""
        if self._stopping.is_set():
            return None
        if arrived := content.read_nowait():
            return arrived
        reading = asyncio.ensure_future(content.readany())
        stopping = asyncio.ensure_future(self._stopping.wait())
        # Where the bus held us up beyond the deadline, the kernel may still hold something for us.
        patience = max(deadline - _clock(), GRACE_SECONDS)
        try:
            done, _ = await asyncio.wait(
                {reading, stopping},
                timeout=patience if seconds is None else min(patience, seconds),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if reading in done:
                return reading.result() or None
            if stopping in done:
                return None
            if seconds is None or patience <= seconds:
                raise TimeoutError("the server has been silent for too long")
            return b""
        finally:
            reading.cancel()
            stopping.cancel()


def _clock() -> float:
    return asyncio.get_running_loop().time()
