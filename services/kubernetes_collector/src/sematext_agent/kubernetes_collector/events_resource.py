"""The two requests for events: a list in pages, and a watch in lines."""

from __future__ import annotations

import asyncio
import logging
import math
import random
from collections.abc import AsyncGenerator, Callable

import aiohttp

from sematext_agent.kubernetes_collector.api import Api, ApiError
from sematext_agent.kubernetes_collector.frames import LINE_BYTES_MAX, ListPage, decode_page
from sematext_agent.kubernetes_collector.retry_policy import RetryPolicy
from sematext_agent.kubernetes_collector.settings import KubernetesSettings
from sematext_agent.shared.service import Runtime

log = logging.getLogger(__name__)

WATCH_SECONDS = (240.0, 290.0)
"""The range of the watch time asked of the server: below the five minutes of many balancers."""
LATE_SECONDS = 15.0
"""The silence accepted beyond the watch time; after it the connection counts as lost."""
GRACE_SECONDS = 1.0
LINES_MAX = 32
"""The most lines that are passed on, and so decoded, at once."""
PAGE_ITEMS = 500
PAGE_ITEMS_MAX = 4000
"""The largest page, for a list that expires before it is read in smaller ones."""


class EventsResource:
    """The resource `events` of a cluster, or of one namespace of it."""

    def __init__(
        self,
        api: Api,
        retries: RetryPolicy,
        runtime: Runtime[KubernetesSettings],
        namespace: str,
        wake_seconds: Callable[[], float | None],
    ) -> None:
        """Prepare the requests for `namespace`, or for all where it is empty.

        `wake_seconds` returns the silence in seconds after which `watch_lines` yields an empty
        list, or None for no limit.
        """
        self._api = api
        self._retries = retries
        self._stopping = runtime.stopping
        self._clock = runtime.clock
        self._uniform = runtime.uniform or random.uniform
        self._wake_seconds = wake_seconds
        self._path = f"/api/v1/namespaces/{namespace}/events" if namespace else "/api/v1/events"

    async def read_page(self, limit: int, token: str = "") -> ListPage | None:
        """Return a page of the list, after any number of tries; None when the service stops.

        Raises:
            ApiError: status 410, the token has expired.
        """
        params = {"limit": str(limit)} | ({"continue": token} if token else {})

        async def attempt() -> ListPage:
            return decode_page(await self._api.request("GET", self._path, params))

        return await self._retries.retry(attempt)

    async def list_pages(self) -> AsyncGenerator[ListPage, None]:
        """Yield the whole list, a page at a time; end early when the service stops.

        A watch from the revision of the first page shows all that the list may have missed.
        """
        limit, token, more = PAGE_ITEMS, "", True
        backoff, has_expired = self._retries.create_backoff(), False
        while more:
            try:
                page = await self.read_page(limit, token)
            except ApiError as error:
                # The list took longer than the cluster keeps its state. The server may offer a
                # token for a newer state; without it, the list begins anew.
                token, limit = error.continue_token, min(limit * 2, PAGE_ITEMS_MAX)
                log.info("list expired while it was read: %s (pages of %d from now)", error, limit)
                if has_expired:  # a server may answer so to every page, or to every second one
                    await self._retries.pause_after(error, backoff)
                has_expired = True
                continue
            if page is None:
                return
            yield page
            token = page.token
            more = bool(token)

    async def watch_lines(self, revision: int) -> AsyncGenerator[list[bytes], None]:
        """Yield the lines of one watch after `revision`, as they arrive, until the server ends it.

        An empty list stands for the begin of the answer, and for a silence of `wake_seconds`. Ends
        early when the service stops.

        Raises:
            ApiError: the watch was refused or broke off, or the server was silent for too long.
                Only that deadline notices a balancer whose server is gone.
        """
        seconds = self._uniform(*WATCH_SECONDS)
        params = {
            "watch": "1",
            # Events get none today; where they do, they keep the cursor young.
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(math.ceil(seconds)),
            "resourceVersion": str(revision),
        }
        deadline = self._clock.monotonic() + seconds + LATE_SECONDS
        async with self._api.stream(self._path, params) as content:
            splitter = LineSplitter()
            yield []
            while (chunk := await self._read(content, deadline)) is not None:
                lines = splitter.split(chunk)
                for start in range(0, len(lines) or 1, LINES_MAX):
                    yield lines[start : start + LINES_MAX]

    async def _read(self, content: aiohttp.StreamReader, deadline: float) -> bytes | None:
        """Return what arrived; empty after `wake_seconds`; None at the end or at the stop."""
        if self._stopping.is_set():
            return None
        if arrived := content.read_nowait():
            return arrived
        # Futures of its own, not a timeout: a read that is cancelled as it ends loses its bytes.
        reading = asyncio.ensure_future(content.readany())
        stopping = asyncio.ensure_future(self._stopping.wait())
        # After a long back-pressure the kernel may still hold data past the deadline.
        silence_seconds = max(deadline - self._clock.monotonic(), GRACE_SECONDS)
        wake_seconds = self._wake_seconds()
        try:
            done, _ = await asyncio.wait(
                {reading, stopping},
                timeout=min(silence_seconds, math.inf if wake_seconds is None else wake_seconds),
                return_when=asyncio.FIRST_COMPLETED,
            )
            if reading in done:
                return reading.result() or None
            if stopping in done:
                return None
            if wake_seconds is None or silence_seconds <= wake_seconds:
                raise TimeoutError("the server has been silent for too long")
            return b""
        finally:
            reading.cancel()
            stopping.cancel()


class LineSplitter:
    """The lines in a sequence of chunks: only a line feed ends one, as in JSON lines."""

    def __init__(self) -> None:
        self._parts: list[bytes] = []
        self._bytes = 0

    def split(self, chunk: bytes) -> list[bytes]:
        """Return the lines that `chunk` completes; one over LINE_BYTES_MAX is cut one byte over."""
        if b"\n" not in chunk:
            if self._bytes <= LINE_BYTES_MAX:
                self._parts.append(chunk)
                self._bytes += len(chunk)
            return []
        self._parts.append(chunk)
        lines = b"".join(self._parts).split(b"\n")
        rest = lines.pop()
        self._parts, self._bytes = [rest], len(rest)
        return [line[: LINE_BYTES_MAX + 1] for line in lines if line.strip()]
